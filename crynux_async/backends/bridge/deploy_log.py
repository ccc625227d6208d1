"""What the last words of a bridge that did not start mean, and what to do. Pure.

Source: starts of the real program, one failure at a time.
"""

import re

import attrs

from crynux_async.backends.bridge.deploy_config import LEAST_CNX


@attrs.frozen(kw_only=True)
class Explanation:
    """What a line of a bridge's log means.

    Attributes:
        name: A short name of the failure.
        sentence: What happened.
        cure: What to do; FOLDER stands for the bridge's folder.
    """

    name: str
    sentence: str
    cure: str


def _known(name: str, pattern: str, sentence: str, cure: str) -> tuple[re.Pattern[str], Explanation]:
    return re.compile(pattern), Explanation(name=name, sentence=sentence, cure=cure)


# The first that matches explains a line, so a general one stands behind its special ones.
_KNOWN = (
    _known(
        "no config",
        r"Error reading config file\s*Config File \W*config\W* Not Found",
        "The bridge found no config/config.yml in the folder that it was started in.",
        "Make a folder with 'crynux-async bridge init FOLDER', and start it with 'crynux-async bridge up FOLDER'.",
    ),
    _known(
        "no heartbeat tasks",
        r"heartbeat_tasks\.tasks_file: read .*no such file",
        "The bridge does not start without config/heartbeat_tasks.json, even where it has no heartbeat tasks.",
        'Write the file with the content {"tasks": []}.',
    ),
    _known(
        "no key file",
        r"panic: open .*|config\.GetPrivateKey",
        "The bridge found no key file: it deletes the file at every start, so it cannot start by itself again.",
        "Start it with 'crynux-async bridge up FOLDER', which writes the key file anew.",
    ),
    _known(
        "address and key differ",
        r"account address and private key mismatch",
        "blockchain.account.address in config.yml is not the address of the key, letter by letter and capital by "
        "capital.",
        "Write the address exactly as 'crynux-async bridge doctor FOLDER' shows it, or use the wallet of that address.",
    ),
    _known(
        "key file cannot be deleted",
        r"delete blockchain private key file",
        "The bridge must delete the key file when it starts, and the file is on a read-only mount or not its own.",
        "Use a plain folder for config/, not a docker secret and not a mount with :ro.",
    ),
    _known(
        "not enough money",
        r"not enough relay account balance",
        f"The wallet's account at the relay holds {LEAST_CNX} CNX or less, and the bridge does not start then.",
        "Send CNX from this wallet to the relay's deposit address; it counts after some seconds.",
    ),
    _known(
        "relay away",
        r"CheckBalanceForTaskCreator failed to fetch relay account balance",
        "The bridge could not ask the relay for the balance of its account.",
        "Look at relay.base_url in config.yml and at this machine's network, then start it again.",
    ),
    _known(
        "database away",
        r"InitDB Failed|DB not supported|unable to open database file",
        "The bridge cannot reach its database.",
        "Look at db.driver and db.connection in config.yml; with MySQL, start the database first.",
    ),
    _known(
        "port taken",
        r"listen tcp .*: bind: address already in use",
        "Another program listens on the bridge's port. The key file is deleted all the same.",
        "Stop the other program, or change http.port in config.yml and the ports in docker-compose.yml.",
    ),
    _known(
        "bad config",
        r"Error reading config file",
        "The bridge cannot use its config.yml.",
        "Read what follows 'Error reading config file'; 'crynux-async bridge doctor FOLDER' names what is wrong.",
    ),
    _known(
        "wrong admin token",
        r"admin auth failed",
        "Somebody asked for traces with a wrong token.",
        "Set CRYNUX_ADMIN_TOKEN to admin.auth_token of config.yml.",
    ),
)


def explain(log: str) -> list[Explanation]:
    """Return what is known about the lines of a log, each once, the last one last.

    Args:
        log: The end of what a bridge wrote, standard error included.
    """
    found: dict[str, Explanation] = {}
    for line in log.splitlines():
        match = next((known for pattern, known in _KNOWN if pattern.search(line)), None)
        if match is not None:
            found.pop(match.name, None)
            found[match.name] = match
    return list(found.values())
