import threading
import time

import pytest

from training.background import Background


def test_does_one_thing_after_the_other_elsewhere():
    done, background = [], Background()
    for k in range(20):
        background.do(lambda k=k: done.append((k, threading.current_thread())))
    background.drain(10)
    assert [k for k, _ in done] == list(range(20))
    assert threading.current_thread() not in {thread for _, thread in done}
    background.report("a message")
    assert list(background.messages()) == ["a message"]
    background.finish()
    assert background.error(1) is None


def test_after_a_failure_nothing_more_is_done():
    done, background = [], Background()
    background.do(lambda: 1 / 0)
    background.do(lambda: done.append(1))
    start = time.monotonic()
    background.drain(10)
    background.finish()
    assert time.monotonic() - start < 5
    assert done == []
    assert isinstance(background.error(1), ZeroDivisionError)


@pytest.mark.parametrize("wait", ["finish", "drain"])
def test_what_hangs_is_not_waited_for(wait):
    background, never = Background(patience=0.1), threading.Event()
    background.do(never.wait)
    start = time.monotonic()
    background.drain(0.1) if wait == "drain" else background.finish()
    assert isinstance(background.error(0.05), TimeoutError)
    assert time.monotonic() - start < 5
    never.set()


def test_without_anything_to_do_nothing_waits():
    background = Background()
    background.drain(1)
    background.finish()
    assert background.error(1) is None
