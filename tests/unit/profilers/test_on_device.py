"""What a GPU was seen to run: costs of the CUDA provider that were measured or recorded, never modelled ones."""

from cutset.profilers.on_device import seen_on_device
from cutset.profilers.ort_cuda import CUDA_BACKEND
from tests.profile_tables import make_group, make_table


def test_nodes_that_ran_in_the_cuda_provider_were_seen():
    table = make_table(
        make_group("a"),
        make_group("a", device="gpu", backend=CUDA_BACKEND, canonical=("a", "b")),
        make_group("c", device="gpu", backend=CUDA_BACKEND, source="recorded"),
        make_group("d", None, device="gpu", backend=CUDA_BACKEND, reason="it fails there"),
        make_group("e", device="gpu", backend="tensorrt"),
        make_group("f", device="gpu", backend=CUDA_BACKEND, source="modelled"),
        make_group("g", device="gpu", backend="roofline", source="modelled"),
    )
    assert seen_on_device(table) == {"a", "b", "c"}
