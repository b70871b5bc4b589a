"""Trained models as files that run elsewhere: export, and the check that a file answers as the run does.

How a file is made: :func:`~convmixer.deploy.export.export_run` takes a run's weights as a
:class:`~convmixer.deploy.source.Source`, one of :data:`~convmixer.deploy.formats.FORMATS` writes it, and
:func:`~convmixer.deploy.check.check` compares what was written with the source before it gets its name.
"""
