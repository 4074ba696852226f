"""`python -m taming_cli`: the same program as the `taming` executable."""

from taming_cli.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main())
