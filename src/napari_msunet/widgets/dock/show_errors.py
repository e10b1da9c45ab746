"""Errors as napari's notifications: one sentence, and the details on request."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from napari.utils.notifications import (
    ErrorNotification,
    Notification,
    NotificationSeverity,
    notification_manager,
)

from napari_msunet.errors import MsunetError
from napari_msunet.wording import in_labels


class _WithDetails(ErrorNotification):
    """An error whose details are text, since it happened in another process."""

    def __init__(self, sentence: str, details: str) -> None:
        super().__init__(MsunetError(sentence))
        self.details = details

    def as_text(self) -> str:
        return self.details

    def as_html(self) -> str:
        from html import escape

        return f"<pre>{escape(self.details)}</pre>"

    def __str__(self) -> str:
        return self.details


def notify_error(sentence: str, details: str | None = None) -> None:
    """Show an error: its sentence, and with `details` a button for them.

    What a person can put right has none: its sentence says all, and a traceback would only frighten.
    """
    said = in_labels(sentence)
    found = Notification(said, NotificationSeverity.WARNING) if details is None else _WithDetails(said, details)
    notification_manager.dispatch(found)


if TYPE_CHECKING:
    Given = ParamSpec("Given")
    Answer = TypeVar("Answer")


def show_errors(method: Callable[Given, Answer]) -> Callable[Given, Answer | None]:
    """Wrap a handler of a button, so that its errors are shown as notifications."""

    @wraps(method)
    def handler(*arguments: Given.args, **options: Given.kwargs) -> Answer | None:
        try:
            return method(*arguments, **options)
        except MsunetError as error:
            notify_error(str(error))
            return None

    return handler
