"""The entry point of ``python -m napari_msunet`` and of the command; small, so that it can handle Ctrl-C at once."""

from __future__ import annotations


def main() -> None:
    """Entry point of the command `napari-msunet`."""
    from napari_msunet.own_process import ENDING

    try:
        ENDING.begin()
        from napari_msunet.cli import run_command

        run_command()
    except BaseException as error:  # an error while the command itself is imported
        if (code := ENDING.code(error)) is None:
            raise
        ENDING.say()
        ENDING.leave(code)


if __name__ == "__main__":
    main()
