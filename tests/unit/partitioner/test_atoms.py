"""What the user keeps together is one atom, and a contradiction is told with the nodes and the path between them."""

import math

import pytest

from cutset.errors import PlanError
from cutset.partitioner.atoms import Evidence, atoms_of
from cutset.partitioner.pins import Keep, parse_pin, resolve, resolve_kept

MS = 1e-3


def atoms(case, *pins, keep=()):
    return atoms_of(
        Evidence(
            graph=case.graph,
            table=case.table(),
            support=case.support(),
            pins=resolve(case.graph, [parse_pin(pin) for pin in pins]),
            kept=resolve_kept(case.graph, [Keep(patterns=tuple(keep), origin="pins.yaml:7")] if keep else []),
        )
    )


def test_what_is_kept_costs_the_sum_of_its_groups(chain):
    found = atoms(chain([1, 2, 4, 8], [0.1, 0.2, 0.4, 0.8], groups=["ab", "c", "d"]), keep="bc")
    assert [atom.nodes for atom in found] == [("a", "b", "c"), ("d",)]
    assert (found[0].cpu_s, found[0].gpu_s) == pytest.approx((7 * MS, 0.7 * MS))
    assert found[0].gpu_source == "modelled"


def test_what_is_kept_with_a_node_the_gpu_lacks_stays_with_it(chain):
    found = atoms(chain([1, 2, 4], [0.1, 0.2, 0.4], refused={"b": "no kernel"}), keep="ab")
    assert [atom.nodes for atom in found] == [("a", "b"), ("c",)]
    assert math.isinf(found[0].gpu_s)
    assert found[0].reason == "no kernel"


def test_a_pin_decides_for_all_that_is_kept(chain):
    found = atoms(chain([1, 2, 4], [0.1, 0.2, 0.4]), "c=gpu", keep="abc")
    assert [atom.nodes for atom in found] == [("a", "b", "c")]
    assert math.isinf(found[0].cpu_s)
    assert found[0].reason == "pinned by --pin c=gpu"


def test_what_lies_between_is_kept_too(chain):
    assert [atom.nodes for atom in atoms(chain([1, 2, 4], [1, 1, 1]), keep="ac")] == [("a", "b", "c")]


def test_pins_that_part_what_is_kept(chain):
    with pytest.raises(PlanError, match="`a` and `c` must stay together") as caught:
        atoms(chain([1, 2, 4, 8], [1, 1, 1, 1]), "a=cpu", "c=gpu", keep="ad")
    assert caught.value.where == "pins.yaml:7 (keep a, d)"
    assert "`a` runs on the CPU only (pinned by --pin a=cpu)" in caught.value.cause
    assert "between them: `a` -> `b` -> `c`" in caught.value.cause


def test_a_refusal_against_a_pin(chain):
    with pytest.raises(PlanError, match="must stay together") as caught:
        atoms(chain([1, 2], [1, 1], refused={"b": "no kernel for it"}), "a=gpu", keep="ab")
    assert "`b` runs on the CPU only (no kernel for it), `a` on the GPU only" in caught.value.cause
    assert "`a` -> `b`" in caught.value.cause


def test_a_keep_about_nothing(chain):
    with pytest.raises(Exception, match=r"pins.yaml:7 .* matches no node"):
        atoms(chain([1, 2], [1, 1]), keep=["z*"])
