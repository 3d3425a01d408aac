"""What was kept together and what was left out are in the report, as text, whatever a model or a library says."""

import numpy as np

from cutset.codegen.report import write_plain_report
from tests.reports import planned

HOSTILE = "</li><script>alert(1)</script>"


def test_what_was_left_out_and_kept_together_is_told(cnn_path):
    case = planned(cnn_path, {"x": np.ones((1, 3, 16, 16), np.float32)})
    assert 'id="exceptions"' not in case.html()
    skipped = [{"step": "comparing precisions", "about": f"stage {HOSTILE}", "reason": HOSTILE}]
    kept = [{"sentence": "kept together: cut apart, it differs", "nodes": [HOSTILE]}]
    page = case._replace(document=case.document | {"skipped": skipped, "kept_together": kept}).html()
    assert 'id="exceptions"' in page
    assert "comparing precisions of" in page
    assert "kept together: cut apart, it differs" in page
    assert HOSTILE not in page


def test_a_report_that_cannot_be_drawn_says_why(tmp_path):
    path = write_plain_report(tmp_path, f"split {HOSTILE}", [{"step": "drawing the report", "about": "", "reason": HOSTILE}])
    page = path.read_text("utf-8")
    assert "drawing the report: " in page
    assert page.count("&lt;script&gt;") == 2
    assert HOSTILE not in page
