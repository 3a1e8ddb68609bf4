"""``python -m lessonkit`` is ``lessonkit``."""

from lessonkit.cli import main

if __name__ == "__main__":
    main()
