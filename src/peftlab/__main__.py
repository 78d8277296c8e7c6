"""``python -m peftlab``; ``peftlab`` on the command line starts here too."""

from peftlab.cli import main

if __name__ == "__main__":
    main()
