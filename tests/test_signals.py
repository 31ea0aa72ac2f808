"""The first signal asks, the second one acts, and nothing is changed for good."""

import signal
import threading

import pytest

from jaxllm.training import signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_a_request(number):
    with signals.stop_asked() as asked:
        assert not asked()
        signal.raise_signal(number)
        assert asked()


@pytest.fixture
def ctrl_c_acts():
    """Undo what a shell does to a command in the background: it ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_acts_at_once(ctrl_c_acts):
    with signals.stop_asked():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_handlers_are_given_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with signals.stop_asked():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_another_thread_changes_nothing():
    heard = []

    def work():
        with signals.stop_asked() as asked:
            heard.append(asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == [False]
