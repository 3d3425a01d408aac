"""A split is deployed only where no simple plan beats it, as costed or at an end of the GPU costs' interval."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutset.partitioner.baselines import WORDS
from cutset.partitioner.judge import MIN_GAIN, SPLIT, explain_choice, judge, refused_split

ENDS = ("mid", "low", "high")


def at(mid, low=None, high=None):
    return {"mid": mid, "low": mid if low is None else low, "high": mid if high is None else high}


def test_a_split_that_no_simple_plan_beats_is_deployed():
    found = judge(at(130, 300, 50), {"all_cpu": at(10), "capability_first": at(100, 200, 50)})
    assert (found.winner, found.best_other(), found.gain()) == (SPLIT, "capability_first", pytest.approx(1.3))
    assert explain_choice(found) == (
        "1.30x everything the GPU takes on the GPU (1.50x where the GPU is fastest, 1.00x where the GPU is slowest)"
    )


def test_a_loss_to_a_simple_plan_at_either_end_refuses_the_split():
    """The numbers of a network with uint8 pre-processing: 1.06 times the simple plan, 0.38 times where the GPU is fast."""
    found = judge(at(106, 114, 106), {"all_cpu": at(8), "capability_first": at(100, 300, 34)})
    assert (found.winner, found.best_other(), found.gain()) == ("capability_first", "all_cpu", pytest.approx(12.5))
    assert explain_choice(found) == (
        "12.50x the whole model on the CPU (37.50x where the GPU is fastest, 4.25x where the GPU is slowest)"
    )
    assert refused_split(found) == "The best split found gives 1.06x of this, but 0.38x where the GPU is fastest"


def test_another_plan_that_is_best_at_an_end_is_named_there():
    found = judge(at(130, 300, 70), {"all_cpu": at(60), "capability_first": at(100, 200, 50)})
    assert "1.17x where the GPU is slowest (the whole model on the CPU)" in explain_choice(found)


def test_a_simpler_plan_within_the_margin_goes_first():
    assert judge(at(1), {"capability_first": at(101), "all_cpu": at(100)}).winner == "all_cpu"
    assert judge(at(1), {"capability_first": at(103), "all_cpu": at(100)}).winner == "capability_first"
    assert judge(at(101.9), {"all_gpu": at(100)}).winner == "all_gpu"
    assert judge(at(102.1), {"all_gpu": at(100)}).winner == SPLIT


def test_a_split_of_fewer_stages_than_the_simple_plan_needs_no_gain():
    """A graph-capturing partitioner's answer can be four stages, one of them shape arithmetic, where two do as well."""
    stages = {SPLIT: 2, "all_cpu": 1, "capability_first": 4}

    def winner(scores, **changed):
        rivals = {"all_cpu": at(30), "capability_first": at(100, 300, 50)}
        return judge(scores, rivals, stages=stages | changed).winner

    found = judge(at(101, 301, 51), {"all_cpu": at(30), "capability_first": at(100, 300, 50)}, stages=stages)
    assert explain_choice(found).endswith(" in fewer stages")
    assert winner(at(101, 301, 51)) == SPLIT
    assert winner(at(99, 297, 49.5)) == SPLIT
    assert winner(at(97, 300, 50)) == "capability_first"
    assert winner(at(101, 290, 50)) == "capability_first"
    assert winner(at(101, 301, 48)) == "capability_first"
    assert winner(at(101, 301, 51), split=4) == "capability_first"
    assert winner(at(103, 309, 52), split=6) == SPLIT


def test_one_decision_whether_the_gpu_takes_all_or_all_but_a_trifle():
    for split, cpu, gpu in [(at(106, 114, 106), at(8), at(100, 300, 34)), (at(150, 450, 60), at(120), at(100, 300, 34))]:
        whole = judge(split, {"all_cpu": cpu, "all_gpu": gpu})
        nearly = judge(split, {"all_cpu": cpu, "capability_first": gpu})
        assert whole.winner.replace("all_gpu", "capability_first") == nearly.winner


def test_a_split_that_a_simple_plan_is_as_well_is_none():
    found = judge(at(100), {"all_cpu": at(8), "capability_first": at(100)}, distinct=False)
    assert found.winner == "capability_first"
    assert explain_choice(found) == "12.50x the whole model on the CPU"
    assert refused_split(found) == ""
    assert found.as_json()["best_split"] is None


def test_a_split_that_loses_to_another_simple_plan_at_an_end_says_to_which():
    found = judge(at(110, 330, 50), {"all_cpu": at(60), "capability_first": at(100, 300, 40)})
    assert found.winner == "capability_first"
    assert refused_split(found) == (
        "The best split found gives 1.10x of this, but 0.83x the whole model on the CPU where the GPU is slowest"
    )


def test_a_split_that_gains_too_little_says_so():
    found = judge(at(101), {"all_cpu": at(100)})
    assert refused_split(found) == "The best split found gives 1.01x of this, too little for its moving parts"


def test_where_no_simple_plan_is_possible_the_split_is_deployed():
    for rivals in ({}, {"all_cpu": at(0)}):
        found = judge(at(3), rivals)
        assert (found.winner, found.gain(), explain_choice(found)) == (SPLIT, None, "")


def test_a_plan_that_takes_no_time_has_no_ratio():
    free = float("inf")
    found = judge(at(free), {"all_cpu": at(free), "capability_first": at(3)})
    assert (found.winner, explain_choice(found), refused_split(found)) == ("all_cpu", "no split gains anything", "")
    assert (found.as_json()["gain"], found.as_json()["best_split"]["mid"]) == (None, None)


SCORE = st.floats(0.01, 100)
SCORES = st.fixed_dictionaries(dict.fromkeys(ENDS, SCORE))


@settings(max_examples=300, deadline=None)
@given(split=SCORES, rivals=st.dictionaries(st.sampled_from([name for name in WORDS if name != "mix"]), SCORES, min_size=1))
def test_the_winner_is_a_simple_plan_or_beats_them_all_at_every_end(split, rivals):
    found = judge(split, rivals)
    best = {end: max(scores[end] for scores in rivals.values()) for end in ENDS}
    if found.winner == SPLIT:
        assert split["mid"] > best["mid"] * (1 + MIN_GAIN)
        assert all(split[end] >= best[end] * (1 - 1e-8) for end in ENDS)
    else:
        assert rivals[found.winner]["mid"] * (1 + MIN_GAIN) >= best["mid"] * (1 - 1e-9)
        assert split["mid"] <= best["mid"] * (1 + MIN_GAIN) or any(split[end] < best[end] for end in ("low", "high"))
