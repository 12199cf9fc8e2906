"""One page for a browser that holds everything: words, tables and pictures."""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_STYLE = """
body { font: 16px/1.5 Georgia, serif; color: #1a1a1a; max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 3rem; border-top: 1px solid #ccc;
  padding-top: 1rem; }
img { max-width: 100%; height: auto; }
@media (max-width: 40rem) { body { font-size: 15px; } h1, h2 { font-size: 1.4rem; }
  img { max-width: none; width: 36rem; } }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font: 13px/1.4 sans-serif; margin: 1rem 0 .3rem; }
caption { text-align: left; font-weight: bold; padding: .3rem 0; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: right;
  white-space: nowrap; }
th { border-bottom: 1px solid #555; white-space: pre-line; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
td:first-child { white-space: normal; min-width: 6rem; }
.note { color: #555; font: 13px/1.4 sans-serif; margin: 0 0 1rem; }
.verdict { border-left: 4px solid #777; padding: .4rem .8rem; background: #f5f5f5; }
.verdict.good { border-color: #009E73; } .verdict.bad { border-color: #D55E00; }
td.good { color: #00694d; } td.bad { color: #a84a00; }
code, pre { font-size: 13px; overflow-x: auto; }
"""


# What looks good and bad, of the words of verdicts.
_KINDS = {"reproduced": "good", "not reproduced": "bad"}


class ExperimentSection(NamedTuple):
    """One experiment on a page.

    Attributes:
        summary: From `lazyjax.experiments.Result.summary`, perhaps read from a file.
        picture: Its figure as a PNG image.
    """

    summary: Mapping[str, Any]
    picture: bytes


def page_bytes(
    sections: Sequence[ExperimentSection],
    *,
    command: str,
    environment: Mapping[str, str],
) -> bytes:
    """A page of HTML with figures, tables and verdicts, which needs no other file.

    Args:
        sections: One for each experiment.
        command: What was typed to make it.
        environment: Versions and machine, by name.

    Returns:
        The content of the file.
    """
    verdicts = "".join(
        f'<tr><td><a href="#{name}">{name}</a></td>'
        f'<td class="{_KINDS.get(word, "")}">{word}</td></tr>\n'
        for name, word in (
            (
                html.escape(section.summary["name"]),
                html.escape(section.summary["verdict"]["word"]),
            )
            for section in sections
        )
    )
    known = _table(
        {
            "title": "Environment",
            "columns": ["", ""],
            "rows": [list(item) for item in environment.items()],
            "caption": "",
        }
    )
    body = "\n".join(
        (
            "<h1>Experiments, reproduced or not</h1>",
            f"<pre>{html.escape(command)}</pre>",
            f"<table><tr><th>experiment</th><th>verdict</th></tr>\n{verdicts}</table>",
            *map(_section, sections),
            "<h2>How this was made</h2>",
            known,
        )
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>lazyjax: experiments</title><style>{_STYLE}</style></head>\n"
        f"<body>{body}</body></html>\n"
    ).encode()


def _section(section: ExperimentSection) -> str:
    summary = {
        name: html.escape(str(summary))
        for name, summary in section.summary.items()
        if isinstance(summary, str)
    }
    verdict = section.summary["verdict"]
    settings = section.summary["settings"]
    kind = _KINDS.get(verdict["word"], "")
    image = base64.b64encode(section.picture).decode()
    made_with = ", ".join(f"{k} = {v}" for k, v in settings["size"].items())
    control = settings["control"]
    broken = f" Negative control: {control}." if control else ""
    return "\n".join(
        (
            f'<h2 id="{summary["name"]}">{summary["name"]}: {summary["title"]}</h2>',
            f"<p>{summary['source']}.</p>",
            f"<p><b>Claim.</b> {summary['claim']}</p>",
            f'<p class="verdict {kind}">{html.escape(verdict["line"])}<br>'
            f'<span class="note">Rule: {html.escape(verdict["rule"])}.</span></p>',
            f'<div class="wide"><img alt="{summary["title"]}" '
            f'src="data:image/png;base64,{image}"></div>',
            *map(_table, section.summary["tables"]),
            f'<p class="note">Seed {settings["seed"]}; '
            f"{html.escape(made_with + '.' + broken)}</p>",
        )
    )


def _table(contents: Mapping[str, Any]) -> str:
    """A table, from `table_contents`."""
    header = "".join(f"<th>{html.escape(name)}</th>" for name in contents["columns"])
    rows = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>\n"
        for row in contents["rows"]
    )
    head = f"<thead><tr>{header}</tr></thead>" if any(contents["columns"]) else ""
    title = contents["title"] and f"<caption>{html.escape(contents['title'])}</caption>"
    note = contents["caption"]
    below = note and f'<p class="note">{html.escape(note)}</p>'
    return f'<div class="wide"><table>{title}{head}<tbody>{rows}</tbody></table></div>{below}'
