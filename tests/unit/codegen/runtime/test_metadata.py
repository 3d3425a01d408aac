"""What a server announces of a model's file is what fits into a message of any client."""

from dataclasses import replace

import numpy as np

from cutset.codegen.runtime.metadata import MOST_PROPERTIES, MOST_PROPERTY, model_config, model_properties


def test_a_file_that_says_nothing(chain):
    assert model_properties(chain(1).plan()) == {}


def test_large_entries_stay_in_the_package(chain):
    small = {str(index): "x" * (MOST_PROPERTY - 1) for index in range(10)}
    plan = replace(chain(1).plan(), metadata={"vocabulary": "x" * MOST_PROPERTY, "names": "cat"} | small)
    found = model_properties(plan)["properties"]
    assert found["names"] == "cat"
    assert "vocabulary" not in found
    assert sum(len(key) + len(value) for key, value in found.items()) <= MOST_PROPERTIES
    assert "6" in found
    assert "9" not in found


def test_inputs_that_may_be_left_out_are_named_whatever_the_file_says(chain):
    plan = replace(chain(1).plan(), metadata={"optional_inputs": "none"})
    first = replace(plan.inputs[0], default=np.ones(1, np.float32))
    plan = replace(plan, inputs=(first,))
    assert model_properties(plan)["properties"]["optional_inputs"] == f'["{first.name}"]'
    assert model_config(plan, plan.inputs, plan.outputs)["input"][0]["optional"] is True
