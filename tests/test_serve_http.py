"""Serving over HTTP: the protocol, its limits, and what is said when something is wrong."""

from __future__ import annotations

import asyncio
import json

import httpx
import numpy as np
import pytest
from published import events, snapshot, trained
from served import MODEL, Site, refused, scores, tensor

from online_fm import __version__
from online_fm.serve.config import ServeConfig
from online_fm.serve.scorer import Scorer


@pytest.fixture(scope="module")
def scorer():
    return Scorer.from_bytes("s", snapshot(trained()[0], 12))


@pytest.fixture
def site(scorer):
    return Site(scorer)


@pytest.fixture
def waiting():
    return Site(None)


def tensors(rows: list[dict]) -> list[dict]:
    """The rows as a client would send them, a tensor per input."""
    return [
        tensor("user", [row.get("user") for row in rows]),
        tensor("item", [row.get("item") for row in rows], "INT64"),
        tensor("device.os", [row.get("device", {}).get("os") for row in rows]),
        tensor("tags", [row.get("tags") for row in rows]),
        tensor("age", [row.get("age") for row in rows], "FP64"),
        tensor("price", [row.get("price") for row in rows], "FP64"),
    ]


class TestProtocol:
    def test_the_server_names_itself(self, site):
        assert site.get("/v2").json() == {
            "name": "online_fm",
            "version": __version__,
            "extensions": ["rank", "explain"],
        }
        assert site.get("/v2/health/live").json() == {"live": True}
        assert site.get("/v2/health/ready").json() == {"live": True, "ready": True}

    @pytest.mark.parametrize("path", [MODEL, f"{MODEL}/versions/12"])
    def test_the_model_says_what_it_reads_and_gives(self, site, path):
        assert site.get(path).json() == {
            "name": "ctr",
            "versions": ["12"],
            "platform": "online_fm",
            "inputs": [
                {"name": "user", "datatype": "BYTES", "shape": [-1]},
                {"name": "item", "datatype": "BYTES", "shape": [-1]},
                {"name": "device.os", "datatype": "BYTES", "shape": [-1]},
                {"name": "tags", "datatype": "BYTES", "shape": [-1, -1]},
                {"name": "age", "datatype": "FP64", "shape": [-1]},
                {"name": "price", "datatype": "FP64", "shape": [-1]},
            ],
            "outputs": [{"name": "probability", "datatype": "FP32", "shape": [-1]}],
        }
        assert site.get(path + "/ready").json() == {"name": "ctr", "ready": True}

    def test_scores_through_http_are_the_learner_s_bits(self, site):
        learner, encoder = trained()
        rows = events(50, seed=7)
        expected = learner.predict(encoder.encode(rows).rows).p
        found = np.array(scores(site.infer(*tensors(rows))), np.float32)
        assert found.tobytes() == expected.tobytes()

    def test_scores_are_written_with_the_fewest_digits_that_keep_their_bits(self, site, scorer):
        reply = site.infer(tensor("user", ["u1"]))
        assert reply.text.endswith(f'"data":[{scorer.score([{"user": "u1"}])[0]!s}]}}]}}')

    def test_a_reply_names_model_version_and_request(self, site):
        reply = site.infer(tensor("user", ["u1", "u2"]), id="42", parameters={"any": 1}).json()
        assert reply.pop("outputs")[0] | {"data": []} == {
            "name": "probability",
            "datatype": "FP32",
            "shape": [2],
            "data": [],
        }
        assert reply == {"model_name": "ctr", "model_version": "12", "id": "42"}
        assert "id" not in site.infer(tensor("user", ["u1"])).json()

    def test_missing_null_and_unknown_inputs_are_as_in_training(self, site, scorer):
        expected = scorer.score([{"user": "u1"}, {}]).tolist()
        reply = site.infer(tensor("user", ["u1", None]), tensor("unheard_of", [1, 2], "INT64"))
        assert np.array(scores(reply), np.float32).tolist() == expected

    @pytest.mark.parametrize(
        ("name", "datatype", "shape", "data", "rows"),
        [
            ("user", "BYTES", [2, 1], ["u1", "u2"], [{"user": "u1"}, {"user": "u2"}]),
            ("user", "BYTES", [2, 1], [["u1"], ["u2"]], [{"user": "u1"}, {"user": "u2"}]),
            ("item", "INT64", [2], [3, 4], [{"item": "3"}, {"item": "4"}]),
            ("item", "UINT8", [1], [3], [{"item": 3}]),
            ("item", "INT8", [3], [-128, None, 127], [{"item": -128}, {}, {"item": 127}]),
            ("item", "UINT64", [2], [0, 2**64 - 1], [{"item": 0}, {"item": 2**64 - 1}]),
            ("item", "BOOL", [1], [True], [{"item": True}]),
            ("price", "FP32", [2], [1, 2.5], [{"price": 1.0}, {"price": 2.5}]),
            ("tags", "BYTES", [2, 2], ["a", "t1", "t2", "b"], [{"tags": ["a", "t1"]}, {"tags": ["t2", "b"]}]),
            ("tags", "BYTES", [2, 2], [["a", "t1"], ["t2", "b"]], [{"tags": ["a", "t1"]}, {"tags": ["t2", "b"]}]),
            ("tags", "BYTES", [2], [["t1"], ["t2", "b", "c"]], [{"tags": ["t1"]}, {"tags": ["t2", "b", "c"]}]),
            ("tags", "BYTES", [2], ["t1", []], [{"tags": ["t1"]}, {"tags": []}]),
            ("tags", "BYTES", [2, 1], ["t1", "b"], [{"tags": "t1"}, {"tags": "b"}]),
            ("tags", "BYTES", [2, 0], [], [{"tags": []}, {}]),
            ("user", "BYTES", [0], [], []),
        ],
    )
    def test_data_may_be_flat_or_nested(self, site, scorer, name, datatype, shape, data, rows):
        reply = site.infer({"name": name, "datatype": datatype, "shape": shape, "data": data})
        assert np.array(scores(reply), np.float32).tolist() == scorer.score(rows).tolist()

    def test_an_output_may_be_asked_for_by_name(self, site):
        assert scores(site.infer(tensor("user", ["u1"]), outputs=[{"name": "probability"}]))
        assert "no output 'logit'" in refused(site.infer(tensor("user", ["u1"]), outputs=[{"name": "logit"}]), 400)


CANDIDATES = [{"id": f"item {item}", "features": {"item": item}} for item in range(10)]


class TestRank:
    def test_orders_candidates_by_probability(self, site, scorer):
        reply = site.rank(context={"user": "u1", "device": {"os": "ios"}}, candidates=CANDIDATES).json()
        features = [{"user": "u1", "device": {"os": "ios"}, "item": item} for item in range(10)]
        expected = scorer.score(features)
        ranking = reply.pop("ranking")
        assert reply == {"model_name": "ctr", "model_version": "12"}
        assert [each["index"] for each in ranking] == np.argsort(-expected, kind="stable").tolist()
        assert [each["id"] for each in ranking] == [f"item {each['index']}" for each in ranking]
        assert [np.float32(each["probability"]) for each in ranking] == sorted(expected, reverse=True)

    def test_gives_the_top_ones(self, site):
        everything = site.rank(candidates=CANDIDATES).json()["ranking"]
        assert site.rank(candidates=CANDIDATES, top=3).json()["ranking"] == everything[:3]
        assert site.rank(candidates=CANDIDATES, top=99).json()["ranking"] == everything

    def test_keeps_equal_candidates_in_their_order(self, site):
        same = [{"id": number, "features": {"item": 3}} for number in (5, 1, 4)]
        ranking = site.rank(candidates=same).json()["ranking"]
        assert [(each["id"], each["index"]) for each in ranking] == [(5, 0), (1, 1), (4, 2)]

    def test_a_candidate_needs_no_features_and_a_ranking_no_candidates(self, site):
        assert len(site.rank(candidates=[{"id": 1}]).json()["ranking"]) == 1
        assert site.rank(candidates=[], id="7").json() == {
            "model_name": "ctr",
            "model_version": "12",
            "id": "7",
            "ranking": [],
        }

    @pytest.mark.parametrize(
        ("body", "why"),
        [
            ({}, "missing required field `candidates`"),
            ({"candidates": [{}]}, r"`id` - at `$.candidates[0]`"),
            ({"candidates": [], "top": 0}, "`$.top`"),
            ({"candidates": [{"id": 1}], "context": [1]}, "`$.context`"),
            ({"candidates": [{"id": 1}, {"id": 2, "features": {"age": "x"}}]}, "row 1, field 'age'"),
            ({"candidates": [{"id": 1, "features": {"user": {"a": 1}}}]}, "row 0, field 'user'"),
        ],
    )
    def test_says_what_does_not_fit(self, site, body, why):
        assert why in refused(site.rank(**body), 400)


class TestRefusals:
    @pytest.mark.parametrize(
        ("inputs", "why"),
        [
            ([], "$.inputs"),
            ([tensor("user", ["u1"]), tensor("item", [1, 2], "INT64")], "'item' has 2 rows, and 'user' 1"),
            ([tensor("user", ["u1"]), tensor("user", ["u1"])], "'user' comes twice"),
            ([tensor("user", ["u1"], shape=[2])], "'user': shape [2] needs 2 values, not 1"),
            ([tensor("tags", ["a", "b", "c"], shape=[2, 2])], "'tags': shape [2, 2] needs 4 values, not 3"),
            ([tensor("tags", [["a"], ["b", "c"]], shape=[2, 2])], "'tags': a row does not have 2 values"),
            ([tensor("user", ["u1"], shape=[1, 1, 1])], "$.inputs[0].shape"),
            ([tensor("user", ["u1"], shape=[-1])], "$.inputs[0].shape[0]"),
            ([tensor("user", [7])], "input 'user', row 0: 7 is not BYTES"),
            ([tensor("age", [127, 300], "INT8")], "input 'age', row 1: 300 is not INT8"),
            ([tensor("age", [-128, -129], "INT8")], "row 1: -129 is not INT8"),
            ([tensor("age", [255, -1], "UINT8")], "input 'age', row 1: -1 is not UINT8"),
            ([tensor("tags", [[0, 2**32]], "UINT32")], "row 0: 4294967296 is not UINT32"),
            ([tensor("age", [-(2**63), 2**63], "INT64")], "row 1: 9223372036854775808 is not INT64"),
            ([tensor("age", [1, "x"], "FP32")], "input 'age', row 1: 'x' is not FP32"),
            ([tensor("age", [True], "INT64")], "input 'age', row 0: True is not INT64"),
            ([tensor("tags", [["a", 1]])], "input 'tags', row 0: 1 is not BYTES"),
            ([tensor("user", ["u1"], "STRING")], "datatype STRING is not one of BYTES, BOOL, INT8"),
            ([tensor("age", ["x"])], "row 0, field 'age'"),
            ([tensor("age", [[1]], "INT64")], "row 0, field 'age'"),
            ([tensor("user", [0.5], "FP32")], "row 0, field 'user'"),
            ([{"name": "user"}], "missing required field `shape` - at `$.inputs[0]`"),
        ],
    )
    def test_infer_says_what_does_not_fit(self, site, inputs, why):
        assert why in refused(site.infer(*inputs), 400)

    @pytest.mark.parametrize(
        "body", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"inputs": ' + b"[" * 9000 + b"]" * 9000 + b"}"]
    )
    @pytest.mark.parametrize("call", ["infer", "rank"])
    def test_a_body_that_is_not_json_of_the_right_form_is_refused(self, site, body, call):
        assert refused(site.ask("POST", f"{MODEL}/{call}", content=body), 400)

    def test_a_number_beyond_all_bounds_is_refused(self, site):
        body = b'{"inputs": [{"name": "age", "shape": [1], "datatype": "FP64", "data": [1e999]}]}'
        assert refused(site.ask("POST", f"{MODEL}/infer", content=body), 400)

    def test_tensors_in_binary_form_are_refused_in_words(self, site):
        reply = site.ask("POST", f"{MODEL}/infer", content=b"{}..", headers={"Inference-Header-Content-Length": "2"})
        assert "binary form" in refused(reply, 400)

    @pytest.mark.parametrize(
        ("method", "path", "status", "why"),
        [
            ("GET", "/", 404, "Not Found"),
            ("GET", "/v2/models/other", 404, "there is no model 'other', only 'ctr'"),
            ("POST", "/v2/models/other/infer", 404, "there is no model 'other'"),
            ("GET", "/v2/models/other/ready", 404, "there is no model 'other'"),
            ("POST", f"{MODEL}/versions/11/infer", 404, "version 11 is not served, version 12 is"),
            ("GET", f"{MODEL}/versions/13/ready", 404, "version 13 is not served"),
            ("GET", f"{MODEL}/versions/012", 404, "version 012 is not served"),
            ("GET", f"{MODEL}/infer", 405, "Method Not Allowed"),
            ("DELETE", MODEL, 405, "Method Not Allowed"),
        ],
    )
    def test_what_is_not_there_is_refused(self, site, method, path, status, why):
        assert why in refused(site.ask(method, path), status)

    def test_the_version_served_may_be_named(self, site):
        assert scores(site.infer(tensor("user", ["u1"]), path=f"{MODEL}/versions/12/infer"))

    def test_too_many_rows_are_refused(self, site):
        assert len(scores(site.infer(tensor("user", ["u1"] * 50)))) == 50
        assert "51 rows" in refused(site.infer(tensor("user", ["u1"] * 51)), 413)
        assert "51 rows" in refused(site.rank(candidates=[{"id": each} for each in range(51)]), 413)
        billion = {"name": "user", "shape": [10**9], "datatype": "BYTES", "data": []}
        assert "1000000000 rows" in refused(site.infer(billion), 413)

    def test_a_body_that_is_too_long_is_refused(self, site):
        assert "longer than 20000 bytes" in refused(site.ask("POST", f"{MODEL}/infer", content=b" " * 20_001), 413)

    def test_an_endless_body_without_a_length_is_given_up_when_it_is_too_long(self, site):
        sent = 0

        async def endless():
            nonlocal sent
            while sent < 10_000_000:
                sent += 1000
                yield b" " * 1000

        assert "longer than" in refused(site.ask("POST", f"{MODEL}/infer", content=endless()), 413)
        assert sent <= 22_000

    def test_a_context_is_bounded_as_often_as_it_is_read(self, site):
        candidates = [{"id": each} for each in range(50)]
        reply = site.rank(context={"user": "u" * 7_000}, candidates=candidates)
        assert "a context of 7011 bytes for 50 candidates, and at most 6400 are scored" in refused(reply, 413)
        assert site.rank(context={"user": "u" * 6_000}, candidates=candidates).status_code == 200
        assert site.rank(context={"user": "u" * 7_000}, candidates=candidates[:40]).status_code == 200

    def test_what_no_field_reads_is_not_repeated(self, site):
        reply = site.rank(context={"nobody's": "u" * 7_000}, candidates=[{"id": each} for each in range(50)])
        assert reply.status_code == 200

    @pytest.mark.parametrize("call", ["infer", "rank"])
    def test_a_body_that_does_not_come_is_given_up(self, scorer, call):
        site = Site(scorer, ServeConfig(body_timeout_s=0.01))

        async def stalled():
            yield b"{"
            await asyncio.Event().wait()

        reply = site.ask("POST", f"{MODEL}/{call}", content=stalled())
        assert "did not come within 0.01 s" in refused(reply, 408)
        assert reply.headers["connection"] == "close"

    @pytest.mark.parametrize("call", ["infer", "rank"])
    def test_a_request_takes_the_snapshot_that_is_served_when_its_body_is_there(self, scorer, call):
        site = Site(scorer)
        body = {"inputs": [tensor("user", ["u1"])], "candidates": [{"id": 1}]}

        async def slow():
            yield b""
            site.slot.swap(Scorer.from_bytes("s", snapshot(trained()[0], 13)))
            yield json.dumps(body).encode()

        reply = site.ask("POST", f"{MODEL}/{call}", content=slow())
        assert reply.json()["model_version"] == "13"


def test_it_is_not_ready_once_nobody_follows_the_snapshots(site):
    assert site.get("/v2/health/ready").status_code == 200
    site.following = False
    assert refused_health(site.get("/v2/health/ready")) == {"live": True, "ready": False}
    assert refused_health(site.get(f"{MODEL}/ready")) == {"name": "ctr", "ready": False}
    assert site.infer(tensor("user", ["u1"])).status_code == 200


def refused_health(reply: httpx.Response) -> dict:
    assert reply.status_code == 503
    return reply.json()


class TestBeforeTheFirstSnapshot:
    def test_it_is_live_and_not_ready(self, waiting):
        assert waiting.get("/v2/health/live").status_code == 200
        assert waiting.get("/v2/health/ready").status_code == 503
        assert waiting.get("/v2/health/ready").json() == {"live": True, "ready": False}
        assert waiting.get(f"{MODEL}/ready").status_code == 503
        assert waiting.get(f"{MODEL}/ready").json() == {"name": "ctr", "ready": False}
        assert waiting.get("/v2").status_code == 200

    def test_it_has_no_scores_to_give(self, waiting):
        assert "no snapshot is loaded yet" in refused(waiting.infer(tensor("user", ["u1"])), 503)
        assert "no snapshot is loaded yet" in refused(waiting.rank(candidates=[]), 503)
        assert "no snapshot is loaded yet" in refused(waiting.get(MODEL), 503)

    def test_another_model_is_still_not_there(self, waiting):
        refused(waiting.get("/v2/models/other/ready"), 404)


class TestMetrics:
    def test_requests_rows_and_refusals_are_counted_by_template(self, site):
        site.infer(tensor("user", ["u1", "u2"]))
        site.infer(tensor("user", ["u1"]), path=f"{MODEL}/versions/12/infer")
        site.infer(tensor("user", [7]))
        site.rank(candidates=[{"id": 1}, {"id": 2}, {"id": 3}])
        site.get("/nowhere")
        site.get("/nowhere/else")
        infer, rank = "/v2/models/{name}/infer", "/v2/models/{name}/rank"
        assert site.sample("online_fm_serve_requests_total", route=infer, code="200") == 2
        assert site.sample("online_fm_serve_requests_total", route=infer, code="400") == 1
        assert site.sample("online_fm_serve_rows_total", route=infer) == 3
        assert site.sample("online_fm_serve_rows_total", route=rank) == 3
        assert site.sample("online_fm_serve_requests_total", route="other", code="404") == 2
        assert site.sample("online_fm_serve_request_duration_seconds_count", route=infer) == 3

    def test_they_are_shown_on_the_same_port(self, site):
        site.get("/v2/health/live")
        text = site.get("/metrics").text
        assert 'online_fm_serve_requests_total{code="200",route="/v2/health/live"} 1.0' in text

    def test_what_nobody_thought_of_is_a_500_without_its_insides(self, site):
        site.slot.take = lambda: 1 / 0
        reply = site.infer(tensor("user", ["u1"]))
        assert refused(reply, 500) == "internal error"
        infer = "/v2/models/{name}/infer"
        assert site.sample("online_fm_serve_requests_total", route=infer, code="500") == 1


def test_json_of_the_reply_is_json(site):
    assert json.loads(site.infer(tensor("user", ["u1"]), id='"\n').content)["id"] == '"\n'
