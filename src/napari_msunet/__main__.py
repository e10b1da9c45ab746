"""``python -m napari_msunet``, and the command `napari-msunet`: here, because it must be ready for Ctrl-C at once."""

from __future__ import annotations

import signal


def main() -> None:
    """Entry point of the command `napari-msunet`."""
    from napari_msunet.own_process import ENDING
    from napari_msunet.stopping import Interrupted

    try:
        ENDING.begin()
        from napari_msunet.cli import run_command

        run_command()
    except Interrupted as stopped:  # while the command itself was being imported
        ENDING.say()
        raise SystemExit(128 + stopped.number) from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None


if __name__ == "__main__":
    main()
