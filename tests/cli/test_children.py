"""`aiomultistack run` and the processes that the program starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import MEM, ROOT, command, script

#: Which port each way to ask for a loop leads to; "kernel" if none of ours.
ASK = """
    import asyncio, sys

    def port_of(loop):
        return loop.multistack_config.port if hasattr(loop, "multistack_config") else "kernel"

    def port(loop):
        found = port_of(loop)
        loop.close()
        return found

    async def running():
        return port_of(asyncio.get_running_loop())

    def ask():
        found = [asyncio.run(running()), port(asyncio.new_event_loop()), port(asyncio.SelectorEventLoop())]
        try:
            import uvloop
        except ImportError:
            pass
        else:
            found.append(port(uvloop.new_event_loop()))
        return set(found)
"""

def program(folder: Path, method: str) -> str:
    """A program that starts a child, which says what its loops are."""
    script(folder, ASK, "asking.py")
    child = f"import sys; sys.path.insert(0, {str(folder)!r})\nimport asking\nprint(*asking.ask())\n"
    (folder / "elsewhere").mkdir()
    script(folder / "elsewhere", child, "child.py")
    if method == "subprocess":
        return script(
            folder,
            """
            import subprocess, sys
            print(subprocess.run([sys.executable, "child.py"], stdout=-1, text=True, cwd="elsewhere").stdout.strip())
            """,
        )
    return script(
        folder,
        f"""
        import asking, multiprocessing

        def work(queue):
            queue.put(asking.ask())

        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
            queue = context.SimpleQueue()
            process = context.Process(target=work, args=(queue,))
            process.start()
            print(*queue.get())
            process.join()
        """,
    )


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver", "subprocess"])
def test_children(method: str, tmp_path: Path) -> None:
    result = command("run", *MEM, "--children", program(tmp_path, method), cwd=tmp_path)
    assert (result.stdout, result.stderr) == ("mem:test\n", "")


@pytest.mark.parametrize(("method", "option"), [("spawn", []), ("subprocess", ["--no-children"])])
def test_not_asked_for(method: str, option: list[str], tmp_path: Path) -> None:
    """Only one process can have a port that isn't a switch's; those that are forked have the parent's loops."""
    result = command("run", *MEM, *option, program(tmp_path, method), cwd=tmp_path)
    assert (result.stdout, result.stderr) == ("kernel\n", "")


def test_configuration_of_children(tmp_path: Path) -> None:
    """Wherever they are, they have the parent's file."""
    (tmp_path / "aiomultistack.toml").write_text('port = "mem:file"\naddresses = ["10.9.0.2/24"]\n')
    result = command("run", "--children", program(tmp_path, "subprocess"), cwd=tmp_path)
    assert (result.stdout, result.stderr) == ("mem:file\n", "")


def test_on_a_switch_children_are_reached(tmp_path: Path) -> None:
    path = script(tmp_path, "import os; print(os.environ['AIOMULTISTACK_PORT'], 'AIOMULTISTACK_RUN' in os.environ)")
    result = command("run", "--port=switch:here.sock", path, cwd=tmp_path)
    assert (result.stdout, result.stderr) == (f"switch:{tmp_path}/here.sock True\n", "")
    result = command("run", "--port=switch:here.sock", "--no-children", path, cwd=tmp_path)
    assert (result.stdout, result.stderr) == ("switch:here.sock False\n", "")


def test_the_child_is_left_as_it_was(tmp_path: Path) -> None:
    """Another sitecustomize module runs, the search path is the same, and nothing is imported before asyncio is."""
    (tmp_path / "site").mkdir()
    script(tmp_path / "site", "import builtins; builtins.customized = True", "sitecustomize.py")
    script(
        tmp_path,
        """
        import sys
        names = [name for name in sys.modules if name.startswith(("aiomultistack", "asyncio", "uvloop"))]
        ours = [entry for entry in sys.path if "_children" in entry]
        print(customized, names, ours, sys.modules["sitecustomize"].__file__)
        import asyncio
        print(type(asyncio.__loader__).__name__, asyncio.__spec__.loader is asyncio.__loader__)
        """,
        "child.py",
    )
    path = script(tmp_path, "import subprocess, sys; subprocess.run([sys.executable, 'child.py'])")
    search = os.pathsep.join([str(ROOT), str(tmp_path / "site")])
    result = command("run", *MEM, "--children", path, cwd=tmp_path, PYTHONPATH=search)
    expected = f"True [] [] {tmp_path / 'site' / 'sitecustomize.py'}\nSourceFileLoader True\n"
    assert (result.stdout, result.stderr) == (expected, "")


def test_other_environments_are_left_alone(tmp_path: Path) -> None:
    """A Python of another prefix, and one that cannot import us, start without a word."""
    directory = ROOT / "aiomultistack" / "_children"
    done = subprocess.run(
        [sys.executable, "-c", "import asyncio, sys; print('aiomultistack' in sys.modules)"],
        env={"PYTHONPATH": str(directory), "AIOMULTISTACK_RUN": str(tmp_path)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_a_child_that_cannot_have_a_loop_says_why(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        import os, subprocess, sys
        os.environ["AIOMULTISTACK_PORT"] = "foo:bar"
        code = "import asyncio; asyncio.new_event_loop()"
        print(subprocess.run([sys.executable, "-c", code], stderr=-1, text=True).stderr.splitlines()[-1])
        """,
    )
    result = command("run", *MEM, "--children", path)
    assert "ConfigError: port 'foo:bar' is not one of" in result.stdout
