"""Small attacks in short windows: the probe's requests are answered, and what would not be as asked is said to be so."""

from collections import Counter

from benchmarks.neighbours import QUIET, Window, at_rate, measure, summary, table

ATTACKS = ["large_json", "slow_bodies", "idle_connections"]


def test_every_attack_has_its_window_beside_a_quiet_one(tmp_path):
    found = measure(ATTACKS, 0.2, 1, tmp_path, scale=0.01)
    assert list(found) == [QUIET, *ATTACKS]
    assert [row["otherwise"] for row in found.values()] == [{}] * 4
    assert [row["requests"] for row in found.values()] == [30, 10, 10, 10]
    assert set(found["large_json"]["attack"]) == {"200"}
    assert found["slow_bodies"]["attack"] == {"connections": 1}
    assert found["idle_connections"]["attack"] == {"connections": 10}
    assert len(table(found).splitlines()) == 6


def test_what_is_asked():
    quiet = Window(health_s=[0.001] * 200, small_s=[0.002] * 200)
    assert summary(quiet, 0.002)["as_asked"]
    late_health = Window(health_s=[0.001] * 190 + [0.2] * 10, small_s=[0.002] * 200)
    late_small = Window(health_s=[0.001] * 200, small_s=[0.002] * 190 + [0.007] * 10)
    refused = Window(health_s=[0.001] * 200, small_s=[0.002] * 200, otherwise=Counter({"503": 1}))
    assert [summary(window, 0.002)["as_asked"] for window in (late_health, late_small, refused)] == [False] * 3
    assert summary(late_small, 0.002)["small_p99_ratio"] == 3.5


def test_other_answers_are_counted():
    answers = iter(["200", "503", "200", "503", "TimeoutError"])
    times, otherwise = [], Counter()
    at_rate(lambda: next(answers), "200", times, otherwise, 0.1)
    assert len(times) == 5
    assert otherwise == {"503": 2, "TimeoutError": 1}
