"""Speed and memory of lazyjax beside its peers; see NOTES.md for how to run."""
