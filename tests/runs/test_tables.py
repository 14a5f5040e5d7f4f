"""The tables of all loops as one."""

from tiny import MEMORISER, run_silently, tiny_config

from jaxloop.files import digest, seal_json, unseal_json, write_whole
from jaxloop.runs.folder import joined_tables
from jaxloop.runs.stored import StoredRun


def test_loops_with_other_columns_are_joined_by_name(tmp_path):
    """The first loop's header over all rows would put every later number under another name."""
    config = tiny_config(*MEMORISER)
    run_silently(config, tmp_path / "run")
    path, seal = tmp_path / "run/tables/loop_001/metrics.csv", tmp_path / "run/seals/loop_001/generation_002.json"
    header, *rows = path.read_text().splitlines()
    columns = header.split(",")
    turned = "\n".join([",".join(["new", *columns[::-1]]), *(",".join(["7", *row.split(",")[::-1]]) for row in rows)])
    path.write_text(turned + "\n")
    values = unseal_json(seal.read_bytes(), seal)
    values["tables"]["metrics"] = [path.stat().st_size, digest(path.read_bytes())]
    write_whole(seal, seal_json(values))
    joined = joined_tables(StoredRun(tmp_path / "run"))["metrics"].decode().splitlines()
    assert joined[0] == f"{header},new"
    assert joined[4:] == [f"{row},7" for row in rows] and all(line.endswith(",") for line in joined[1:4])
