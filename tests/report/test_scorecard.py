from distributed_maddpg.report.scorecard import scorecard_tables

RATES = {"agents": 90.0, "adversary": 40.0, "coverage": 50.0}
CARD = {
    "episodes": 20,
    "agent_episode_returns_mean": {"adversary_0": -14.5, "agent_0": 5.25},
    "eps": 0.4,
    "success": RATES,
    "delta": 50.0,
    "success_by_eps": {"0.1": RATES},
    "delta_by_eps": {"0.1": 50.0},
    "final_distance_mean": {"agents": 0.1, "adversary": 0.5, "coverage": 0.3},
    "minimal_distance_mean": {"agents": 0.05, "adversary": 0.2, "coverage": 0.15},
    "ci95": {
        "agent_episode_returns_mean": {"adversary_0": (-15.0, -14.0), "agent_0": None},
        "success": dict.fromkeys(RATES, (1.0, 99.0)),
        "delta": (40.0, 60.0),
    },
}
MATCHUP = {
    "players": {"adversary": "random", "agent": "trained"},
    "agent_episode_returns_mean": {"adversary_0": -1.0, "agent_0": 2.0},
}


def titled(card):
    return {table.title: table for table in scorecard_tables(card)}


def opponent(**changes):
    curve = [{"updates": 250, "episode_return": -20.0, "final_distance": 0.6, "success": 20.0}]
    return {
        "name": "recurrent, return",
        "number": 1,
        "episode_return": -15.0,
        "final_distance": 0.4,
        "success": 55.5,
        "curve": curve,
        **changes,
    }


def test_every_number_of_a_card_stands_in_a_table():
    matchup = {**MATCHUP, "success": RATES, "delta": 50.0}
    strongest = {
        "name": "centroid",
        "return_gain": 1.5,
        "success": RATES,
        "final_distance_mean": CARD["final_distance_mean"],
        "ci95": {"final_distance_mean": {"adversary": (0.48, 0.52)}, "return_gain": (-0.5, 3.5)},
    }
    bounds = {
        "uninformed": {"success": 67.2, "final_distance": 0.521},
        "blind_team": {"success": 34.5, "final_distance": 0.52, "agents": 100.0, "coverage": 99.9},
    }
    adversary = {
        "opponents": [opponent(), opponent(name="centroid", number=None, curve=[])],
        "strongest": dict.fromkeys(("return", "final_distance", "success"), strongest),
        "optimistic": False,
        "bounds": bounds,
    }
    told = {"chance": [50.0] * 3, "accuracy": [51.0, 60.0, 70.0], "probability": [50.0, 55.0, 65.0]}
    response = {"budget": 1.0, "teams": {"adversary": adversary}, "private": {"agent": told}}
    tables = titled({**CARD, "matchups": [matchup], "best_response": response})
    rows = [table.rows for table in tables.values()]
    assert rows == [
        [("adversary_0", "-14.50", "-15.00 to -14.00"), ("agent_0", "+5.25", "")],
        [
            ("agents", "90.0", "1.0 to 99.0", "0.100", "0.050"),
            ("adversary", "40.0", "1.0 to 99.0", "0.500", "0.200"),
            ("coverage", "50.0", "1.0 to 99.0", "0.300", "0.150"),
            ("delta", "50.0", "40.0 to 60.0", "", ""),
        ],
        [("0.1", "90.0", "40.0", "50.0", "50.0")],
        [("random", "trained", "-1.00", "+2.00", "90.0", "40.0", "50.0", "50.0")],
        [
            ("recurrent, return", "1", "250", "-15.00", "0.400", "55.5"),
            ("centroid", "", "", "-15.00", "0.400", "55.5"),
        ],
        [
            (by, "centroid", "+1.50", "-0.50 to +3.50", "40.0", "0.500", "0.480 to 0.520")
            for by in ("return", "final distance", "success")
        ],
        [("uninformed", "67.2", "0.521", "", ""), ("blind team", "34.5", "0.520", "100.0", "99.9")],
        [
            ("agent", "1", "51.0", "50.0", "50.0"),
            ("agent", "2", "60.0", "55.0", "50.0"),
            ("agent", "3", "70.0", "65.0", "50.0"),
        ],
    ]
    for table in tables.values():
        assert {len(row) for row in table.rows} == {len(table.headers)}


def test_without_landmarks_only_returns_are_shown():
    card = {name: CARD[name] for name in ("episodes", "agent_episode_returns_mean", "ci95")}
    speaker = {
        "opponents": [opponent(name="MADDPG", number=0, final_distance=None, success=None)],
        "strongest": {"return": {"name": "MADDPG", "return_gain": 0.5, "ci95": {"return_gain": None}}},
        "optimistic": True,
    }
    response = {"budget": 1.0, "teams": {"speaker": speaker}, "private": {}}
    tables = titled({**card, "matchups": [MATCHUP], "best_response": response})
    assert [table.rows for table in tables.values()][1:] == [
        [("random", "trained", "-1.00", "+2.00")],
        [("MADDPG", "0", "250", "-15.00")],
        [("return", "MADDPG", "+0.50", "")],
    ]
    for table in tables.values():
        assert {len(row) for row in table.rows} == {len(table.headers)}
