"""What runs inside: reads a program from descriptor 3, runs it, and says on descriptor 4 how it ended.

Its source is handed to `python -I -S -c`: inside there is no file of ours. That a program reached its last line is
said by a word that was not in the program; a program that ends its process earlier has said nothing, and has failed.
An argument is the number of processes and threads that there may be.
"""

SOURCE = """
import os, sys, types
if sys.argv[1:]:
    import resource
    processes, hard = int(sys.argv.pop()), resource.getrlimit(resource.RLIMIT_NPROC)[1]
    most = processes if hard == resource.RLIM_INFINITY else min(processes, hard)
    resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
def run():
    with os.fdopen(3, "rb") as file:
        word, _, source = file.read().partition(b"\\n")
    module = types.ModuleType("program")
    sys.modules["program"] = module
    said = b"failed "
    try:
        exec(compile(source, "program.py", "exec", dont_inherit=True), module.__dict__)
        said = word
    except BaseException as error:
        try:
            text = f"{type(error).__name__}: {error}".rstrip(": ")
        except BaseException:
            text = type(error).__name__
        said += " ".join(text.split())[:500].encode("utf-8", "replace")
    try:
        sys.stdout.flush()
    except BaseException:
        pass
    os.write(4, said)
    os._exit(0)
run()
"""
