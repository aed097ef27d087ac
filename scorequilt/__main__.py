"""The command line, from wherever the app's folders are installed."""

from scorequilt.folders import own_process


def main() -> None:
    """Run the console script."""
    own_process()
    from simulations.cli import main as run

    run()


if __name__ == "__main__":
    main()
