"""``python -m napari_msunet``, and the command `napari-msunet`: here, because it must be ready for Ctrl-C at once."""

from __future__ import annotations


def main() -> None:
    """Entry point of the command `napari-msunet`."""
    from napari_msunet.own_process import ENDING

    try:
        ENDING.begin()
        from napari_msunet.cli import run_command

        run_command()
    except BaseException as error:  # while the command itself was being imported
        if (code := ENDING.code(error)) is None:
            raise
        ENDING.say()
        raise SystemExit(code) from None


if __name__ == "__main__":
    main()
