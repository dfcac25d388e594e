"""Variances and draws: what the scorer and HTTP give where the model knows how sure it is, and refuse where not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from published import events, publish, snapshot, trained
from served import MODEL, Site, refused, scores, tensor

from online_fm.serve.live import LiveScorer
from online_fm.serve.scorer import NoVariance, Scorer
from online_fm.snapshot.store import FolderStore

KALMAN = {"w": {"kind": "kalman"}, "v": {"kind": "kalman"}}
USERS = [f"u{number}" for number in range(10)]
SEEDED = {"sample": True, "seed": 7}
CANDIDATES = [{"id": f"i{item}", "features": {"item": item}} for item in range(8)]
TOGETHER = [{"user": "u3", "item": item} for item in range(8)]


def learner_of(**settings: object):
    return trained("fm", **settings)[0]


@pytest.fixture(scope="module")
def scorer():
    return Scorer.from_bytes("s", snapshot(learner_of(**KALMAN), 12))


@pytest.fixture(scope="module")
def plain():
    return Scorer.from_bytes("s", snapshot(learner_of(), 12))


@pytest.fixture
def site(scorer):
    return Site(scorer)


def logit_of(p: np.ndarray) -> np.ndarray:
    p = p.astype(np.float64)
    return np.log(p / (1 - p))


def outputs_of(reply) -> dict[str, np.ndarray]:
    assert reply.status_code == 200, reply.text
    return {output["name"]: np.array(output["data"], np.float32) for output in reply.json()["outputs"]}


class TestScorer:
    def test_predictions_are_the_learner_s_bit_for_bit(self, scorer) -> None:
        learner, encoder = trained("fm", **KALMAN)
        rows = [*events(50, seed=9), {}]
        expected = learner.predict(encoder.encode(rows).rows)
        assert [column.tobytes() for column in scorer.predict(rows)] == [column.tobytes() for column in expected]
        assert (expected.variance > 0).all()

    def test_draws_have_the_mean_and_the_variance_of_the_logit(self, scorer) -> None:
        n = 20_000
        row = events(1, seed=3)[0]
        given = scorer.predict([row])
        variance = float(given.variance[0])
        mean = float(given.logit[0]) * math.sqrt(1 + math.pi / 8 * variance)
        drawn = logit_of(scorer.sample([row] * n, 5))
        assert drawn.mean() == pytest.approx(mean, abs=4 * math.sqrt(variance / n))
        assert drawn.var() == pytest.approx(variance, rel=4 * math.sqrt(2 / n))

    def test_the_same_seed_gives_the_same_draws_a_generator_goes_on(self, scorer) -> None:
        rows = events(5, seed=3)
        assert scorer.sample(rows, 7).tobytes() == scorer.sample(rows, 7).tobytes()
        assert scorer.sample(rows, 7).tobytes() != scorer.sample(rows, 8).tobytes()
        rng = np.random.default_rng(7)
        assert scorer.sample(rows, rng).tobytes() == scorer.sample(rows, 7).tobytes()
        assert scorer.sample(rows, rng).tobytes() != scorer.sample(rows, 7).tobytes()

    def test_candidates_may_be_ranked_by_draws(self, scorer, tmp_path) -> None:
        candidates = [{"item": item} for item in range(5)]
        together = [{"user": "u3", **candidate} for candidate in candidates]
        expected = scorer.sample(together, 7)
        assert scorer.rank({"user": "u3"}, candidates, 7).tobytes() == expected.tobytes()
        publish(FolderStore(tmp_path), learner_of(**KALMAN), 1)
        with LiveScorer(tmp_path, poll_interval_s=60) as live:
            assert live.rank({"user": "u3"}, candidates, 7).tobytes() == expected.tobytes()

    def test_without_a_variance_nothing_is_drawn(self, plain) -> None:
        assert (plain.predict(events(5)).variance == 0).all()
        with pytest.raises(NoVariance, match="needs w or v of kind kalman"):
            plain.sample(events(5), 7)
        with pytest.raises(NoVariance):
            plain.rank({}, [{}], 7)

    def test_what_is_rarely_seen_is_less_sure(self, scorer) -> None:
        seen, unseen = scorer.predict([{"user": "u3", "item": 4}, {"user": "nobody", "item": "nothing"}]).variance
        assert seen < unseen


class TestInfer:
    def test_variance_and_logit_are_given_when_they_are_asked_for(self, site, scorer) -> None:
        expected = scorer.predict([{"user": user} for user in USERS])
        alone = outputs_of(site.infer(tensor("user", USERS)))
        assert list(alone) == ["probability"]
        found = outputs_of(site.infer(tensor("user", USERS), parameters={"variance": True}))
        assert list(found) == ["probability", "logit", "variance"]
        assert [column.tobytes() for column in found.values()] == [column.tobytes() for column in expected]

    def test_outputs_may_be_asked_for_by_name_in_any_order(self, site, scorer) -> None:
        wanted = [{"name": "variance"}, {"name": "probability"}]
        found = outputs_of(site.infer(tensor("user", USERS), outputs=wanted))
        assert list(found) == ["variance", "probability"]
        assert found["variance"].tobytes() == scorer.predict([{"user": user} for user in USERS]).variance.tobytes()
        error = refused(site.infer(tensor("user", USERS), outputs=[{"name": "odds"}]), 400)
        assert error == "there is no output 'odds', only 'probability', 'logit', 'variance'"

    def test_scores_may_be_drawn(self, site, scorer) -> None:
        expected = scorer.sample([{"user": user} for user in USERS], 7)
        found = outputs_of(site.infer(tensor("user", USERS), parameters={**SEEDED, "variance": True}))
        assert found["probability"].tobytes() == expected.tobytes()
        prediction = scorer.predict([{"user": user} for user in USERS])
        assert (found["logit"].tobytes(), found["variance"].tobytes()) == (
            prediction.logit.tobytes(),
            prediction.variance.tobytes(),
        )
        fresh = [scores(site.infer(tensor("user", USERS), parameters={"sample": True})) for _ in range(2)]
        assert fresh[0] != fresh[1]

    def test_parameters_may_be_null_or_of_others(self, site, scorer) -> None:
        expected = scorer.score([{"user": user} for user in USERS]).tolist()
        for parameters in (None, {}, {"any": 1}, {"sample": False}, {"seed": None}):
            found = outputs_of(site.infer(tensor("user", USERS), parameters=parameters))
            assert found["probability"].tolist() == expected

    @pytest.mark.parametrize(
        ("parameters", "why"),
        [
            ({"seed": 7}, "a seed is for 'sample': true - at `$.parameters`"),
            ({"sample": True, "seed": -1}, "Expected `int` >= 0 - at `$.parameters.seed`"),
            ({"sample": True, "seed": 2**63}, "Expected `int` <= 9223372036854775807 - at `$.parameters.seed`"),
            ({"sample": True, "seed": "x"}, "Expected `int | null`, got `str` - at `$.parameters.seed`"),
            ({"sample": 1}, "Expected `bool`, got `int` - at `$.parameters.sample`"),
            ({"variance": "yes"}, "Expected `bool`, got `str` - at `$.parameters.variance`"),
        ],
    )
    def test_parameters_that_make_no_sense_are_refused(self, site, parameters, why) -> None:
        for reply in (
            site.infer(tensor("user", USERS), parameters=parameters),
            site.rank(candidates=[{"id": 1}], parameters=parameters),
        ):
            assert refused(reply, 400) == why

    def test_the_model_says_which_outputs_it_has(self, site, plain) -> None:
        outputs = [output["name"] for output in site.get(MODEL).json()["outputs"]]
        assert outputs == ["probability", "logit", "variance"]
        assert [output["name"] for output in Site(plain).get(MODEL).json()["outputs"]] == ["probability"]


class TestRank:
    def rank(self, site: Site, **more) -> list[dict]:
        reply = site.rank(context={"user": "u3"}, candidates=CANDIDATES, **more)
        assert reply.status_code == 200, reply.text
        return reply.json()["ranking"]

    def test_variances_stand_beside_the_candidates(self, site, scorer) -> None:
        given = scorer.predict(TOGETHER)
        assert [set(each) for each in self.rank(site)] == [{"id", "probability", "index"}] * 8
        ranking = self.rank(site, parameters={"variance": True})
        assert [each["probability"] for each in ranking] == sorted(map(float, map(str, given.p)), reverse=True)
        for each in ranking:
            at = each["index"]
            found = np.array([each["probability"], each["logit"], each["variance"]], np.float32)
            assert found.tolist() == [given.p[at], given.logit[at], given.variance[at]]

    def test_candidates_are_ranked_by_drawn_scores(self, site, scorer) -> None:
        drawn = scorer.sample(TOGETHER, 7)
        ranking = self.rank(site, top=3, parameters=SEEDED)
        assert [each["index"] for each in ranking] == np.argsort(-drawn, kind="stable")[:3].tolist()
        assert (
            np.array([each["probability"] for each in ranking], np.float32).tolist() == sorted(drawn, reverse=True)[:3]
        )
        assert self.rank(site, parameters=SEEDED) == self.rank(site, parameters=SEEDED)
        orders = {tuple(each["id"] for each in self.rank(site, parameters=SEEDED | {"seed": s})) for s in range(20)}
        assert len(orders) > 5

    def test_no_candidates_give_no_ranking(self, site) -> None:
        assert site.rank(candidates=[], parameters={"variance": True}).json()["ranking"] == []


@pytest.mark.parametrize("parameters", [{"variance": True}, {"sample": True}])
def test_a_model_without_variance_says_so(plain, parameters) -> None:
    site = Site(plain)
    for reply in (
        site.infer(tensor("user", USERS), parameters=parameters),
        site.rank(candidates=[{"id": 1}], parameters=parameters),
    ):
        assert refused(reply, 400).startswith("the model has no variance: it needs w or v of kind kalman")
    assert "no output 'variance'" in refused(site.infer(tensor("user", USERS), outputs=[{"name": "variance"}]), 400)


@pytest.mark.parametrize(("loss", "name"), [("squared", "prediction"), ("hinge", "margin")])
def test_a_score_that_is_no_probability_has_a_name_of_its_own(loss, name) -> None:
    scorer = Scorer.from_bytes("s", snapshot(learner_of(loss=loss), 12))
    site, expected = Site(scorer), scorer.predict([{"user": user} for user in USERS])
    assert expected.p.tolist() == expected.logit.tolist()
    found = outputs_of(site.infer(tensor("user", USERS)))
    assert {key: column.tolist() for key, column in found.items()} == {name: expected.p.tolist()}
    ranking = site.rank(candidates=[{"id": 1, "features": {"user": "u1"}}]).json()["ranking"]
    assert set(ranking[0]) == {"id", "index", name}
    assert "no output 'probability'" in refused(
        site.infer(tensor("user", USERS), outputs=[{"name": "probability"}]), 400
    )


def test_a_number_s_draws_have_its_mean_and_variance() -> None:
    scorer = Scorer.from_bytes("s", snapshot(learner_of(loss="squared", **KALMAN), 12))
    n, row = 20_000, {"user": "u3", "item": 4}
    given, drawn = scorer.predict([row]), scorer.sample([row] * 20_000, 1).astype(np.float64)
    variance = float(given.variance[0])
    assert drawn.mean() == pytest.approx(float(given.p[0]), abs=4 * math.sqrt(variance / n))
    assert drawn.var() == pytest.approx(variance, rel=4 * math.sqrt(2 / n))
