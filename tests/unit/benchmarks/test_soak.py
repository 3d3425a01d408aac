"""A short soak: the same kinds of request as the long run, in a few seconds."""

from benchmarks.soak import soak


def test_no_answer_is_wrong_or_lost_and_nothing_is_left(tmp_path):
    report = soak(2000, 1, tmp_path / "package", kill_every=600)
    assert set(report.outcomes) <= {"right", "refused", "cancelled", "raised"}, report
    assert sum(report.outcomes.values()) == report.requests
    assert {"right", "refused", "cancelled", "raised"} <= set(report.outcomes)
    assert report.killed == 3
    assert report.replaced >= 1
    assert report.left == {}
