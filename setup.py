"""Packaging of ding_normmon. It needs little to be imported; requirements.txt pins a complete environment."""

from pathlib import Path

from setuptools import Extension, find_packages, setup

here = Path(__file__).resolve().parent
readme = here / 'README.md'

cli = ['click', 'tabulate']
history = ['pyarrow']
# TensorBoard 2.20 imports pkg_resources, which setuptools 82 no longer has.
report = [*cli, *history, 'rich', 'tensorboard', 'setuptools<82']
train = [
    *report,
    'DI-engine>=0.5.3',
    'LightZero>=0.2.0',
    'gymnasium',
    'minigrid',
    'MinAtar',
    'ale-py',
    'opencv-python-headless',
]
test = [
    'playwright',
    'pytest',
    'pytest-timeout',
    'pytest-xdist',
    'hypothesis',
    'torchjd',
    'build',
    'packaging',
]
docs = ['sphinx', 'myst-parser', 'furo']
dev = [
    'ruff',
    'mypy',
    'import-linter',
    'types-PyYAML',
    'types-tabulate',
]

# Without a compiler the package works without it, slower. One build serves every Python version from 3.10 on.
kernels = Extension(
    'ding_normmon.metrics.kernels.native._kernels',
    sources=['ding_normmon/metrics/kernels/native/kernels.c'],
    depends=['ding_normmon/metrics/kernels/native/sums.h', 'ding_normmon/metrics/kernels/native/tensor.h'],
    extra_compile_args=['-std=c11', '-O3', '-ffp-contract=off'],
    py_limited_api=True,
    optional=True,
)

setup(
    name='ding_normmon',
    version='0.1.0',
    description='Norm, gradient, logit and embedding curves, shared and per task, for multi-task RL with DI-engine',
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    packages=find_packages(include=['ding_normmon', 'ding_normmon.*']),
    package_data={
        'ding_normmon': [
            'py.typed',
            'runs/live/assets/*',
            'runs/report/*.json',
            'runs/report/assets/*',
            'runs/report/assets/uplot/*',
            'metrics/kernels/native/*.pyi',
        ]
    },
    exclude_package_data={'ding_normmon': ['metrics/kernels/native/*.c', 'metrics/kernels/native/*.h']},
    ext_modules=[kernels],
    options={'bdist_wheel': {'py_limited_api': 'cp310'}},
    python_requires='>=3.10',
    # LightZero, which only training needs, has wheels up to Python 3.11.
    # No upper bounds and nothing heavy: this goes into an environment that has torch, DI-engine and LightZero already.
    install_requires=['torch>=2.6', 'numpy', 'easydict', 'tensorboardX', 'crc32c'],
    extras_require={
        'cli': cli,
        'history': history,
        'report': report,
        'wandb': ['wandb'],
        'train': train,
        'test': train + test,
        'docs': docs,
        'dev': train + test + docs + dev,
    },
    classifiers=[
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed',
    ],
    entry_points={
        'console_scripts': ['normmon = ding_normmon.cli.main:main'],
        'tensorboard_plugins': ['ding_normmon = ding_normmon.runs.live.plugin:Loader'],
    },
    zip_safe=False,
)
