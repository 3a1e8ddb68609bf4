"""The dashboard of a notebook: path, checklist, grid, next step, time, focus timer and runs in one place.

``lessonkit.dashboard()`` shows it. ``panel`` follows the journal and writes to it, ``controls`` holds the
widgets, ``pages`` says things in HTML, ``links`` finds the way to a lesson's file, and ``style`` makes all of it
readable in dark and light.
"""

from lessonkit.progress.dashboard.panel import Dashboard, dashboard

__all__ = ["Dashboard", "dashboard"]
