"""Several threads that train: each record is of one step, no exception reaches training, torch is as it was."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from ding_normmon import Monitor, attach
from tests.asserts import assert_bitwise_equal

CONFIG = {'monitor_norm_freq': 1, 'history': False, 'diagnose': False, 'budget': None}


def norm(module: nn.Module) -> float:
    return sum(float((p.grad.double() ** 2).sum()) for p in module.parameters() if p.grad is not None) ** 0.5


def by_call(module: nn.Module) -> None:
    clip_grad_norm_(module.parameters(), 1.0)


def by_hand(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.grad.mul_(0.25)


class Policy:
    """Waits where it is told to in the middle of a step."""

    def __init__(self, clip: Callable[[nn.Module], None], pause: Callable[[str], None] = lambda place: None) -> None:
        torch.manual_seed(1)
        self._learn_model = nn.ModuleDict({'encoder': nn.Linear(4, 4), 'head': nn.Linear(4, 1)})
        self._optimizer = torch.optim.SGD(self._learn_model.parameters(), lr=1e-4)
        self._clip, self._pause = clip, pause
        self.true: list[float] = []
        self.ratios: list[float] = []

    def _forward_learn(self, data: Tensor) -> None:
        self._pause('begin')
        self._optimizer.zero_grad()
        (10 * self._learn_model['head'](self._learn_model['encoder'](data))).square().mean().backward()
        self.true.append(norm(self._learn_model))
        self._pause('backward')
        self._clip(self._learn_model)
        self.ratios.append(norm(self._learn_model) / self.true[-1])
        self._pause('clipped')
        self._optimizer.step()


def run(*functions: Callable[[], None]) -> list[BaseException]:
    """Run the functions in threads of their own; return what they raised."""
    raised: list[BaseException] = []

    def guarded(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return raised


@pytest.fixture(autouse=True)
def torch_is_put_back() -> Iterator[None]:
    """Nothing of torch is another afterwards."""
    functions = [clip_grad_norm_, torch.autograd.backward, torch.optim.SGD.step, torch.amp.GradScaler.step]
    before = [function.__code__ for function in functions]
    yield
    assert [function.__code__ for function in functions] == before


@pytest.mark.parametrize('clip', [by_call, by_hand])
@pytest.mark.parametrize('place', ['begin', 'backward', 'clipped'])
def test_policies_that_learn_in_two_threads_keep_their_figures(clip: Any, place: str) -> None:
    first_inside, second_inside, first_done = threading.Event(), threading.Event(), threading.Event()

    def first_pauses(here: str) -> None:
        if here == place:
            first_inside.set()
            assert second_inside.wait(20)

    def second_pauses(here: str) -> None:
        if here == place:
            second_inside.set()
            assert first_done.wait(20)

    first, second = Policy(clip, first_pauses), Policy(clip, second_pauses)
    attachments = [attach(policy, CONFIG) for policy in (first, second)]

    def run_first() -> None:
        first._forward_learn(torch.randn(8, 4))
        first_done.set()

    def run_second() -> None:
        assert first_inside.wait(20)
        second._forward_learn(torch.randn(8, 4))

    assert not run(run_first, run_second)
    for attachment, policy in zip(attachments, (first, second), strict=True):
        attachment.detach()
        (record,) = attachment.monitor.take_records()
        assert record.scalars['grad/model/_total_norm'] == pytest.approx(policy.true[0], rel=1e-6)
        assert record.scalars['clip/model/coefficient'] == pytest.approx(policy.ratios[0], rel=1e-5)


@pytest.mark.parametrize('clip', [by_call, by_hand])
def test_many_policies_learn_in_many_threads(clip: Any) -> None:
    policies = [Policy(clip) for _ in range(4)]
    attachments = [attach(policy, CONFIG) for policy in policies]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def train(policy: Policy) -> Callable[[], None]:
        return lambda: [policy._forward_learn(torch.ones(8, 4)) for _ in range(50)] and None

    try:
        assert not run(*map(train, policies))
    finally:
        sys.setswitchinterval(interval)
    alone = Policy(clip)
    for _ in range(50):
        alone._forward_learn(torch.ones(8, 4))
    for attachment, policy in zip(attachments, policies, strict=True):
        attachment.detach()
        assert_bitwise_equal(dict(policy._learn_model.state_dict()), dict(alone._learn_model.state_dict()))
        records = attachment.monitor.take_records()
        assert {r.iteration: r.scalars['grad/model/_total_norm'] for r in records} == pytest.approx(
            {r.iteration: policy.true[r.iteration] for r in records}, rel=1e-6
        )
        assert len(records) + attachment.monitor.lost_data.total.get('queue_full', 0) == 50


def test_one_policy_that_several_threads_step_trains_on_and_what_is_mixed_is_left_out() -> None:
    meet = threading.Barrier(2)
    together = Policy(by_call, lambda place: meet.wait(20) and None)
    attachment = attach(together, CONFIG)
    assert not run(*[lambda: together._forward_learn(torch.ones(8, 4))] * 2)
    together._pause = lambda place: None
    together._forward_learn(torch.ones(8, 4))
    attachment.detach()
    (record,) = attachment.monitor.take_records()
    assert record.scalars['grad/model/_total_norm'] == pytest.approx(together.true[-1], rel=1e-6)
    assert attachment.monitor.lost_data.total == {'concurrent_steps': 1}


def test_threads_without_any_order_raise_nothing() -> None:
    class Flat(Policy):
        """Its gradient does not depend on its weights, so other threads' steps do not stop its backward pass."""

        def _forward_learn(self, data: Tensor) -> None:
            self._learn_model['head'](data).mean().backward()
            self._optimizer.step()

    policy = Flat(lambda module: None)
    attachment = attach(policy, CONFIG)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        assert not run(*[lambda: [policy._forward_learn(torch.ones(8, 4)) for _ in range(100)] and None] * 4)
    finally:
        sys.setswitchinterval(interval)
    attachment.detach()


def test_a_loop_in_one_thread_is_not_disturbed_by_training_in_another() -> None:
    model, other = nn.Linear(4, 1), nn.Linear(4, 1)
    true, ratios = [], []
    turn, back = threading.Semaphore(0), threading.Semaphore(0)

    def watched() -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        with Monitor(model, CONFIG, optimizer=optimizer) as monitor:
            for _ in range(5):
                optimizer.zero_grad()
                (10 * model(torch.randn(8, 4))).square().mean().backward()
                true.append(norm(model))
                by_hand(model)
                ratios.append(norm(model) / true[-1])
                turn.release()
                assert back.acquire(timeout=20)
                optimizer.step()
        records = monitor.take_records()
        assert [r.scalars['grad/model/_total_norm'] for r in records] == pytest.approx(true, rel=1e-6)
        assert [r.scalars['clip/model/coefficient'] for r in records] == pytest.approx(ratios, rel=1e-6)

    def beside() -> None:
        optimizer = torch.optim.SGD(other.parameters(), lr=0.01)
        for _ in range(5):
            assert turn.acquire(timeout=20)
            other(torch.randn(8, 4)).square().mean().backward()
            clip_grad_norm_(other.parameters(), 1e-3)
            optimizer.step()
            back.release()

    assert not run(watched, beside)


def test_what_is_clipped_by_hand_while_another_thread_is_in_its_backward_pass_is_not_read_as_before() -> None:
    model, other = nn.Linear(4, 1), nn.Linear(4, 1)
    read, inside, clipped, over = (threading.Event() for _ in range(4))
    true: list[float] = []

    def watched() -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        with Monitor(model, CONFIG, optimizer=optimizer) as monitor:
            (10 * model(torch.randn(8, 4))).square().mean().backward()
            true.append(norm(model))
            read.set()
            assert inside.wait(20)
            by_hand(model)
            clipped.set()
            assert over.wait(20)
            optimizer.step()
        (record,) = monitor.take_records()
        assert record.scalars['grad/model/_total_norm'] == pytest.approx(true[0], rel=1e-6)
        assert record.scalars['clip/model/coefficient'] == pytest.approx(0.25, rel=1e-6)

    def beside() -> None:
        assert read.wait(20)
        hidden = other(torch.randn(8, 4))

        def hook(gradient: Tensor) -> None:
            inside.set()
            assert clipped.wait(20)

        hidden.register_hook(hook)
        hidden.square().mean().backward()
        over.set()

    assert not run(watched, beside)


def test_backward_passes_in_a_thread_of_their_own_belong_to_the_step_of_their_parameters() -> None:
    policy = Policy(by_hand)
    backward = Tensor.backward

    def elsewhere(loss: Tensor) -> None:
        assert not run(lambda: backward(loss))

    def forward_learn(data: Tensor) -> None:
        policy._optimizer.zero_grad()
        elsewhere((10 * policy._learn_model['head'](policy._learn_model['encoder'](data))).square().mean())
        policy.true.append(norm(policy._learn_model))
        run(lambda: clip_grad_norm_(policy._learn_model.parameters(), 1.0) and None)
        policy.ratios.append(norm(policy._learn_model) / policy.true[-1])
        policy._optimizer.step()

    policy._forward_learn = forward_learn
    attachment = attach(policy, CONFIG)
    policy._forward_learn(torch.ones(8, 4))
    attachment.detach()
    (record,) = attachment.monitor.take_records()
    assert record.scalars['grad/model/_total_norm'] == pytest.approx(policy.true[0], rel=1e-6)
    assert record.scalars['clip/model/coefficient'] == pytest.approx(policy.ratios[0], rel=1e-5)


def test_attachments_that_end_in_another_order_than_they_began_leave_nothing() -> None:
    policies = [Policy(by_call) for _ in range(3)]
    attachments = [attach(policy, CONFIG) for policy in policies]
    seen: list[Any] = []

    def nested(data: Tensor) -> None:
        policies[1]._forward_learn(data)
        attachments[1].detach()
        attachments[0].detach()
        clip_grad_norm_(policies[0]._learn_model.parameters(), 1.0)
        raise KeyError('in the middle of a step')

    policies[0]._pause = lambda place: nested(torch.ones(8, 4)) if place == 'backward' else None
    with pytest.raises(KeyError):
        policies[0]._forward_learn(torch.ones(8, 4))
    policies[2]._forward_learn(torch.ones(8, 4))
    attachments[2].detach()
    seen += [len(attachment.monitor.take_records()) for attachment in attachments]
    assert seen[1:] == [1, 1]
