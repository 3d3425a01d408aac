"""Our server of a package whose GPU stages have a worker of their own, on the other core, as if it were a GPU.

usage: python -m benchmarks.serving_standin FOLDER
"""

import sys
from contextlib import closing
from pathlib import Path

from cutset.codegen.bench.standin import Deployed
from cutset.codegen.runtime.allocator import keep_freed_memory
from cutset.codegen.runtime.launcher import Server
from cutset.codegen.runtime.settings import ServerSettings


def main() -> None:
    """Serve until terminated."""
    keep_freed_memory()
    with closing(Deployed(Path(sys.argv[1]))) as deployed:
        Server(deployed.pipeline, ServerSettings(port=0)).run(lambda url: print(f"ready: {url}", flush=True))


if __name__ == "__main__":
    main()
