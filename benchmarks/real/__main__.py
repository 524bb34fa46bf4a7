"""`python -m benchmarks.real`."""

from benchmarks.real.track import main


if __name__ == "__main__":
    main()
