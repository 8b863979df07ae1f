"""docs/errors.md has every message of the code, each with what to do."""

from tests.errors_page import PAGE, REMEDIES, messages, page


def test_the_page_is_that_of_the_code() -> None:
    assert PAGE.read_text() == page(), "run `make errors`"


def test_every_message_says_what_to_do_itself_or_the_page_does() -> None:
    silent = [f"{each.module}:{each.line}: {each.text}" for each in messages() if not each.parts[1]]
    assert not silent, "say in the message what to do, after a semicolon, or in REMEDIES"


def test_no_remedy_is_left_of_a_message_that_has_gone() -> None:
    assert REMEDIES.keys() <= {each.text for each in messages()}


def test_messages_that_are_known_are_found_with_their_status_and_remedy() -> None:
    found = {(each.module, each.status, *each.parts) for each in messages()}
    assert ("launch/actions/console.py", 1, "--accept_day and --reason go together", "give both") in found
    killed = [
        status for module, status, wrong, _ in found if wrong.startswith("a process that trained … was")
    ]
    assert killed == [75]  # Killed is a TransientError.
