"""Results as text: strict JSON, tables, and pages for a browser."""

from lazyjax.report.pages import (
    ExperimentSection as ExperimentSection,
    page_bytes as page_bytes,
)
from lazyjax.report.texts import (
    json_bytes as json_bytes,
    means_table as means_table,
    table as table,
    table_contents as table_contents,
    to_json as to_json,
    with_error as with_error,
)
