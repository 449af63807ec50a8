"""The nightly run under all accidents at once: is anything lost, charged in silence, or told wrongly?

Real tasks generate the shards of some nights, each try in a process of its own, over the sandbox's vendors and a bad
S3. They are killed, stopped and continued, and their clocks differ; the first night has a cap, and the last one is
quiet. Then what the vendors have charged is compared with the ledger, call by call, and seven promises are judged.

===============  ==================================================================
``accidents``    what vendors, S3 and clocks do, and how often
``worker``       one try of a task, in a process of its own
``tormentor``    starts the tries of a night, and ends them at any moment
``controls``     workers that are broken on purpose, to see each promise fail
``evidence``     what there is to be judged: gathered during and after the nights
``judge``        the promises, as pure functions over the evidence
``chaos``        the whole: services, nights, verdict
===============  ==================================================================

``make chaos``, or ``python -m benchmarks.chaos 200 10 --seed 7 --mode deferrable``.
"""
