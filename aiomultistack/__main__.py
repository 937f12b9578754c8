"""`python -m aiomultistack` is `aiomultistack`."""

from aiomultistack._cli import main

if __name__ == "__main__":
    main()
