"""`python -m agent.edges.gpu`: see `worker`, which this starts in as little memory as it can do with."""

import sys

from agent.edges.lean import import_for_the_reader

import_for_the_reader()

from agent.edges.gpu.worker import main  # noqa: E402  (after its packages)

if __name__ == "__main__":
    main(sys.argv)
