"""Atari games through the Arcade Learning Environment, with the ROMs that come inside ale-py's wheel."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ding_normmon.unizero.environments.base import TaskEnvironment
from ding_normmon.unizero.environments.packages import require_package

__all__ = ['SUFFIX', 'AtariEnvironment', 'game_of', 'names']

SUFFIX = 'NoFrameskip-v4'
PACKAGE = 'ale-py>=0.10,!=0.11.2'
IMAGE_SIZE = 64


def names() -> tuple[str, ...]:
    """Return the names of all games whose ROM is installed, such as ``'MsPacmanNoFrameskip-v4'``."""
    return tuple(sorted(_games()))


def game_of(name: str) -> str:
    """Return the ROM of a task.

    Example:
        >>> game_of('UpNDownNoFrameskip-v4')
        'up_n_down'
    """
    return _games()[name]


@functools.cache
def _games() -> dict[str, str]:
    roms = require_package('ale_py.roms', PACKAGE, 'an Atari environment')
    return {''.join(part.capitalize() for part in game.split('_')) + SUFFIX: game for game in roms.get_all_rom_ids()}


class AtariEnvironment(TaskEnvironment):
    """One Atari game; observation (3, 64, 64) in [0, 1], all 18 actions so that every game's heads have one size.

    Arguments:
        name: such as ``'PongNoFrameskip-v4'``.
        seed: seed of the sequence of episodes.
        frame_skip: frames per action; the image is the pixelwise maximum of the last two.
        sticky_action_probability: probability that the emulator repeats the previous action in a frame.
        full_action_space: all 18 actions, or only those that the game uses.
        maximum_steps: actions after which an episode ends.
        clip_reward: whether the learner sees the sign of the reward; reported returns are never clipped.
        noop_maximum: largest number of no-op frames at the start of an episode.
    """

    def __init__(
        self,
        name: str,
        seed: int = 0,
        frame_skip: int = 4,
        sticky_action_probability: float = 0.0,
        full_action_space: bool = True,
        maximum_steps: int = 27_000,
        clip_reward: bool = True,
        noop_maximum: int = 30,
    ) -> None:
        ale_py = require_package('ale_py', PACKAGE, name)
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._cv2 = require_package('cv2', 'opencv-python-headless', name)
        self._ale = ale_py.ALEInterface()
        self._ale.setFloat('repeat_action_probability', float(sticky_action_probability))
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            self._rom = require_package('ale_py.roms', PACKAGE, name).get_rom_path(game_of(name))
        self._ale.loadROM(self._rom)
        self._actions = self._ale.getLegalActionSet() if full_action_space else self._ale.getMinimalActionSet()
        self._frame_skip = frame_skip
        self._maximum_steps = maximum_steps
        self._clip_reward = clip_reward
        self._noop_maximum = noop_maximum
        height, width = self._ale.getScreenDims()
        self._frames = np.zeros((2, height, width, 3), dtype=np.uint8)
        super().__init__(name, (3, IMAGE_SIZE, IMAGE_SIZE), len(self._actions), seed)

    def seed(self, seed: int, dynamic_seed: bool = True) -> None:
        """Restart the sequence of episodes; reloads the ROM, because the emulator takes its seed only then."""
        super().seed(seed, dynamic_seed)
        self._ale.setInt('random_seed', int(seed) % (2**31 - 1))
        self._ale.loadROM(self._rom)

    def _begin_episode(self, seed: int) -> NDArray[Any]:
        self._ale.reset_game()
        for _ in range(int(np.random.default_rng(seed).integers(self._noop_maximum + 1))):
            self._ale.act(self._actions[0])
            if self._ale.game_over():
                self._ale.reset_game()
        self._ale.getScreenRGB(self._frames[1])
        self._frames[0] = self._frames[1]
        return self._image()

    def _advance(self, action: int) -> tuple[NDArray[Any], float, bool]:
        reward = 0.0
        for frame in range(self._frame_skip):
            reward += self._ale.act(self._actions[action])
            is_over = self._ale.game_over()
            if is_over or frame >= self._frame_skip - 2:
                self._frames[0] = self._frames[1]
                self._ale.getScreenRGB(self._frames[1])
            if is_over:
                break
        done = self._ale.game_over() or self._timestep + 1 >= self._maximum_steps
        return self._image(), reward, bool(done)

    def _training_reward(self, reward: float) -> float:
        return float(np.sign(reward)) if self._clip_reward else reward

    def _image(self) -> NDArray[Any]:
        image = self._cv2.resize(
            self._frames.max(axis=0), (IMAGE_SIZE, IMAGE_SIZE), interpolation=self._cv2.INTER_AREA
        )
        return image.transpose(2, 0, 1).astype(np.float32) / 255.0
