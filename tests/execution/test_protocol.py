"""The worker's end of the line."""

from __future__ import annotations

from multiprocessing import Pipe

from peftlab.execution.protocol import Channel, Finished, Started, Step


def test_steps_are_thinned_out_and_the_last_one_always_sent() -> None:
    receive, send = Pipe(duplex=False)
    channel = Channel(send, step_every_s=1000.0)
    channel.send(Started(0, 50))
    for step in range(1, 51):
        channel.send(Step(step, 50, 0.5, 1e-3))
    channel.send(Finished("diverged"))
    found = []
    while receive.poll():
        found.append(receive.recv())
    assert found == [Started(0, 50), Step(1, 50, 0.5, 1e-3), Step(50, 50, 0.5, 1e-3), Finished("diverged")]


def test_a_receiver_that_is_gone_is_no_error() -> None:
    receive, send = Pipe(duplex=False)
    receive.close()
    Channel(send).send(Started())
    send.close()
    Channel(send).send(Started())
    Channel(None).send(Started())
