#!/usr/bin/env python3
"""Writes the dashboards beside it (`dashboards/*.json`) from the tables below; `--check` says whether they are as written.

In an expression `@` stands for the selection of job and instance: `up@` is `up{job=~"$job",instance=~"$instance"}`, and
`up@{a="b"}` has one label more. Panels flow from left to right over the 24 columns of Grafana's grid.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).parent / "dashboards"
SELECTION = 'job=~"$job",instance=~"$instance"'
RATE = "$__rate_interval"
GREEN, ORANGE, RED, BLUE = "green", "orange", "red", "blue"
OFF_ON = {"0": ("no", RED), "1": ("yes", GREEN)}


def selected(expr):
    return expr.replace("@{", "{" + SELECTION + ",").replace("@", "{" + SELECTION + "}")


# === kinds of panels ===


def panel(kind, title, description, unit, targets, width, height, options, steps=None, custom=None, mappings=None, **more):
    """A panel; `targets` maps legend to expression, `steps` are (from, colour) with the first colour from the very bottom."""
    thresholds = [{"color": colour, "value": start} for start, colour in (steps or [(None, BLUE)])]
    defaults = {"unit": unit, "color": {"mode": "thresholds" if steps else "palette-classic"}}
    defaults["thresholds"] = {"mode": "absolute", "steps": thresholds}
    defaults["custom"] = custom or {}
    values = {value: {"text": text, "color": colour} for value, (text, colour) in (mappings or {}).items()}
    defaults["mappings"] = [{"type": "value", "options": values}] if values else []
    defaults.update(more)
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {"x": 0, "y": 0, "w": width, "h": height},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        # A forward takes a minute or two: over a shorter time there is nothing to take the rate of.
        "interval": "2m",
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": {"type": "prometheus", "uid": "${datasource}"},
                "expr": selected(expr),
                "legendFormat": legend,
                "range": kind not in ("stat", "table", "bargauge"),
                "instant": kind in ("stat", "table", "bargauge"),
                **({"format": "table"} if kind == "table" else {}),
                **({"format": "heatmap"} if kind == "heatmap" else {}),
            }
            for place, (legend, expr) in enumerate(targets.items())
        ],
    }


def link(title, url, **more):
    plain = {"icon": "external link", "tags": [], "asDropdown": False, "includeVars": False, "keepTime": False, "tooltip": ""}
    return {"type": "link", "title": title, "url": url, "targetBlank": True, **plain, **more}


def stat(title, description, unit, expr, steps=None, mappings=None, width=3, height=4, runbook=None, legend="{{instance}}", show="auto", **more):
    """One number, its background in the colour of its state."""
    options = {
        "colorMode": "background" if steps or mappings else "value",
        "graphMode": "none",
        "justifyMode": "center",
        "textMode": show,
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    made = panel("stat", title, description, unit, {legend: expr}, width, height, options, steps, None, mappings, **more)
    if runbook:
        made["links"] = [link("What to do", "${runbook}#" + runbook)]
    return made


def lines(title, description, unit, targets, width=8, height=8, stacked=False, steps=None, **more):
    """Curves over time; with `steps` the thresholds are drawn as lines."""
    custom = {
        "drawStyle": "line",
        "lineWidth": 2,
        "fillOpacity": 40 if stacked else 8,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "line" if steps else "off"},
    }
    options = {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"], "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    made = panel("timeseries", title, description, unit, targets, width, height, options, steps, custom, **more)
    made["fieldConfig"]["defaults"]["color"] = {"mode": "palette-classic"}
    return made


def bars(title, description, unit, targets, width=8, height=8, steps=None, **more):
    """Horizontal bars of the values now, for few well-ordered series."""
    options = {
        "displayMode": "gradient",
        "orientation": "horizontal",
        "showUnfilled": True,
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    return panel("bargauge", title, description, unit, targets, width, height, options, steps, **more)


def heatmap(title, description, unit, expr, width=8, height=8):
    """A histogram over time."""
    options = {
        "calculate": False,
        "yAxis": {"unit": unit, "axisPlacement": "left"},
        "color": {"mode": "scheme", "scheme": "Turbo", "steps": 64},
        "cellGap": 1,
        "legend": {"show": True},
        "tooltip": {"mode": "single", "yHistogram": True},
    }
    return panel("heatmap", title, description, unit, {"{{le}}": expr}, width, height, options)


def table(title, description, unit, targets, width=12, height=9):
    """Rows of labels and values now; several targets become columns of one row."""
    made = panel("table", title, description, unit, targets, width, height, {"showHeader": True, "cellHeight": "sm"})
    hidden = {"Time": True, "job": True, "__name__": True, "runbook_url": True}
    made["transformations"] = [
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {"excludeByName": hidden, "indexByName": {}, "renameByName": names(targets)}},
    ]
    return made


def names(targets):
    if len(targets) == 1:
        return {"Value": next(iter(targets))}
    return {f"Value #{chr(ord('A') + place)}": legend for place, legend in enumerate(targets)}


def quantiles(metric, by=""):
    """Median and 95th percentile of a histogram."""
    legend = " {{" + by + "}}" if by else ""
    labels = "le, " + by if by else "le"
    rated = f"sum by ({labels}) (rate({metric}_bucket@[{RATE}]))"
    return {f"{name}{legend}": f"histogram_quantile({q}, {rated})" for name, q in (("median", 0.5), ("95 %", 0.95))}


def rate(metric, by, more=""):
    labels = "@{" + more + "}" if more else "@"
    return {"{{" + by.split(", ")[-1] + "}}": f"sum by ({by}) (rate({metric}{labels}[{RATE}]))"}


# === the dashboards ===

ANSWERED = f'sum(rate(openvalidators_completions_total@{{outcome="answered"}}[{RATE}])) / sum(rate(openvalidators_completions_total@[{RATE}]))'
STEPS_ZERO = [(None, GREEN), (1, ORANGE), (2, RED)]

OVERVIEW = {
    "Is it all right?": [
        stat("Running", "Whether Prometheus reaches the validator.", "none", "up@",
             mappings={"0": ("DOWN", RED), "1": ("up", GREEN)}, runbook="validatordown"),
        stat("Alerts firing", "Critical and warning alerts that fire now; the list is below.", "none",
             'count(ALERTS@{alertstate="firing"}) or vector(0)', [(None, GREEN), (1, RED)], runbook="runbook"),
        stat("Latest step", "Time since the latest settled step began. A forward takes a minute or two.", "s",
             "time() - (openvalidators_last_step_timestamp_seconds@ > 0)", [(None, GREEN), (300, ORANGE), (900, RED)], runbook="noprogress"),
        stat("Epochs missed", "Epochs in a row without weights of ours.", "none",
             "openvalidators_weights_epochs_missed@", STEPS_ZERO, runbook="weightsnotset"),
        stat("Miners answering", "Share of the asked miners that answered in time.", "percentunit", ANSWERED,
             [(None, RED), (0.2, ORANGE), (0.5, GREEN)], runbook="minersvanished", decimals=0),
        stat("Newest block", "Time since the newest block was seen; mainnet makes one in 12 s.", "s",
             "openvalidators_chain_block_age_seconds@", [(None, GREEN), (60, ORANGE), (120, RED)], runbook="chainlag"),
        stat("vtrust", "How much of our weights the consensus accepted.", "none",
             "openvalidators_validator_trust_ratio@", [(None, RED), (0.3, ORANGE), (0.6, GREEN)], runbook="vtrustfalling", decimals=2),
        stat("Disk free", "Of the file system with the state directory.", "percentunit",
             "openvalidators_state_free_bytes@ / openvalidators_state_size_bytes@", [(None, RED), (0.05, ORANGE), (0.15, GREEN)],
             runbook="diskfilling", decimals=0),
    ],
    "Duty": [
        stat("Registered", "Whether our hotkey holds a uid.", "none", "openvalidators_validator_registered@", None, OFF_ON, runbook="deregistered"),
        stat("Permit", "Whether our weights count.", "none", "openvalidators_validator_permit@", None, OFF_ON, runbook="permitlost"),
        stat("Active", "Whether the chain thinks our weights are young enough.", "none", "openvalidators_validator_active@", None, OFF_ON,
             runbook="activitycutoffnear"),
        stat("Weights last set", "Time since this process last saw its weights on the chain.", "s",
             "time() - (openvalidators_weights_last_set_timestamp_seconds@ > 0)", [(None, GREEN), (8640, ORANGE), (12960, RED)],
             runbook="weightsnotset"),
        stat("Stake", "Behind our hotkey.", "none", "openvalidators_validator_stake_tao@", runbook="stakenearthreshold"),
        stat("Up for", "Since the program began.", "s", "time() - process_start_time_seconds@", [(None, ORANGE), (3600, GREEN)], runbook="restartloop"),
        stat("Version", "Of the program.", "none", "openvalidators_build_info@", width=6, legend="{{version}} ({{revision}})", show="name"),
    ],
    "Work": [
        lines("Steps per minute", "Settled steps by kind. Flat is good, zero is not.", "none",
              {"{{name}}": f"60 * sum by (name) (rate(openvalidators_steps_total@[{RATE}]))"}, stacked=True),
        lines("How queries end", "Miners asked, by outcome. `answered` should be the largest.", "reqps",
              rate("openvalidators_completions_total", "outcome"), stacked=True),
        lines("Rewards", "Mean final reward of completions that answered, by kind of step.", "none",
              {"{{name}}": f"sum by (name) (rate(openvalidators_reward_sum@[{RATE}])) / sum by (name) (rate(openvalidators_reward_count@[{RATE}]))"}),
    ],
    "Trouble": [
        table("Alerts", "What fires or is about to. The name is a heading in the runbook.", "none", {"now": "ALERTS@"}),
        lines("Log lines", "Warnings and errors of the program, per minute.", "none",
              {"{{level}}": f'60 * sum by (level) (rate(openvalidators_log_events_total@{{level=~"error|warn"}}[{RATE}]))'}, width=6, height=9),
        lines("Restarts", "Actors that failed and were made anew, and starts of the program, in the last hour.", "none",
              {"{{inbox}}": "sum by (inbox) (increase(openvalidators_actor_restarts_total@[1h])) > 0",
               "the program": "changes(process_start_time_seconds@[1h])"}, width=6, height=9),
    ],
}

REWARDS = {
    "Is it all right?": [
        stat("Steps scored", "Share of the settled steps that could be scored.", "percentunit",
             f'sum(rate(openvalidators_steps_total@{{result="scored"}}[{RATE}])) / sum(rate(openvalidators_steps_total@[{RATE}]))',
             [(None, RED), (0.5, ORANGE), (0.9, GREEN)], width=6, runbook="stepsunscored", decimals=0),
        stat("Steps where nobody earned", "Share of the scored steps in which no completion earned anything.", "percentunit",
             f'sum(rate(openvalidators_steps_without_best_total@[{RATE}])) / sum(rate(openvalidators_steps_total@{{result="scored"}}[{RATE}]))',
             [(None, GREEN), (0.5, ORANGE), (0.95, RED)], width=6, runbook="allrewardszero", decimals=0),
        stat("Answers that were no numbers", "In the last hour, over all models: NaN or infinite.", "none",
             "sum(increase(openvalidators_inference_not_finite_total@[1h]))", [(None, GREEN), (1, RED)], width=6, runbook="notfinite"),
        stat("Refused for length", "Completions in the last hour that were too long to be scored.", "none",
             "sum(increase(openvalidators_rewards_refused_total@[1h]))", width=6),
    ],
    "Rewards": [
        heatmap("Final rewards", "How many completions earned how much.", "none",
                f"sum by (le) (increase(openvalidators_reward_bucket@[{RATE}]))", width=12),
        lines("Mean reward by kind of step", "Of completions that answered.", "none",
              {"{{name}}": f"sum by (name) (rate(openvalidators_reward_sum@[{RATE}])) / sum by (name) (rate(openvalidators_reward_count@[{RATE}]))"}, width=12),
    ],
    "By model": [
        lines("Raw scores: mean", "Running mean that normalisation uses, by reward function. A jump is another model or another kind of miner.",
              "none", {"{{reward}}": "openvalidators_rewards_normaliser_mean@"}),
        lines("Raw scores: deviation", "Running standard deviation. Near zero, a function tells nobody apart.", "none",
              {"{{reward}}": "openvalidators_rewards_normaliser_deviation@"}),
        lines("Normalised: spread within a step", "Largest minus smallest normalised reward, mean. Near zero, everybody looks alike.", "none",
              {"{{model}}": f"sum by (model) (rate(openvalidators_reward_spread_sum@[{RATE}])) / sum by (model) (rate(openvalidators_reward_spread_count@[{RATE}]))"}),
    ],
    "Filters": [
        lines("Pass rate by filter", "Share of the completions a filter let pass.", "percentunit",
              {"{{filter}}": f'sum by (filter) (rate(openvalidators_filter_completions_total@{{result="passed"}}[{RATE}])) / sum by (filter) (rate(openvalidators_filter_completions_total@[{RATE}]))'},
              min=0, max=1),
        lines("Blocked by filter", "Completions a second with a factor below one half.", "reqps",
              rate("openvalidators_rewards_blocked_total", "filter")),
        lines("Diversity history", "Embeddings remembered, of those before which a completion must differ.", "none",
              {"rows": "openvalidators_rewards_history_rows@"}),
    ],
    "Candidates": [
        lines("Rank correlation with what is in force", "Of shadows, over the last hundred steps: near 1 a candidate would change little.",
              "none", {"{{shadow}}": "openvalidators_rewards_shadow_correlation@"}, min=-1, max=1),
        lines("Worst capture on the benchmark", "What the best attack earns with each in force: 1 is an average miner. From rewards.shadow_benchmark.",
              "none", {"{{shadow}}": "max by (shadow) (openvalidators_rewards_shadow_capture_ratio@)"}, min=0),
        lines("What they cost", "Mean seconds a step.", "s",
              {"{{shadow}}": f"sum by (shadow) (rate(openvalidators_rewards_shadow_seconds_sum@[{RATE}])) / sum by (shadow) (rate(openvalidators_rewards_shadow_seconds_count@[{RATE}]))"}),
        lines("Steps they said nothing of", "In the last hour; the event log says why.", "none",
              {"{{shadow}}": "sum by (shadow) (increase(openvalidators_rewards_shadow_failures_total@[1h]))"}),
    ],
    "Miners as judges": [
        lines("Asked to judge", "Miners a second, by whether a grade came.", "reqps",
              rate("openvalidators_rewards_judgements_total", "result")),
        lines("Disagreement", "Mean difference of a completion's grades from their median, in grades of 0 to 10.", "none",
              {"grades": f"sum(rate(openvalidators_rewards_judge_disagreement_sum@[{RATE}])) / sum(rate(openvalidators_rewards_judge_disagreement_count@[{RATE}]))"}),
        lines("Bias", "Mean difference of a judge's grades from the median: those furthest from the others.", "none",
              {"{{hotkey}}": "openvalidators_rewards_judge_bias@"}),
    ],
    "Time": [
        lines("Until the raw scores were there", "Of a step, all models.", "s", quantiles("openvalidators_rewards_score_seconds")),
        lines("Fold", "Turning raw scores into rewards.", "s", quantiles("openvalidators_rewards_fold_seconds")),
        lines("Steps", "Asked for, folded, and snapshots of the state.", "none",
              {"asked: {{result}}": f"sum by (result) (rate(openvalidators_rewards_scored_total@[{RATE}]))",
               "folded: {{outcome}}": f"sum by (outcome) (rate(openvalidators_rewards_folded_total@[{RATE}]))",
               "snapshot {{result}}": f"sum by (result) (rate(openvalidators_rewards_snapshots_total@[{RATE}]))"}),
    ],
}

NETWORK = {
    "Is it all right?": [
        stat("Miners answering", "Share of the asked miners that answered in time.", "percentunit", ANSWERED,
             [(None, RED), (0.2, ORANGE), (0.5, GREEN)], width=6, runbook="minersvanished", decimals=0),
        stat("Miners that can be asked", "At the latest routing.", "none", "openvalidators_gating_available@", [(None, RED), (1, GREEN)], width=6,
             runbook="minersvanished"),
        stat("Median time of an answer", "Of miners that answered.", "s",
             f"histogram_quantile(0.5, sum by (le) (rate(openvalidators_completion_seconds_bucket@[{RATE}])))", width=6, decimals=2),
        stat("Being asked", "Queries without an outcome yet.", "none", "openvalidators_dendrite_in_flight@", width=6),
    ],
    "Answers": [
        lines("How queries end", "By outcome.", "reqps", rate("openvalidators_dendrite_queries_total", "outcome"), width=12, stacked=True),
        heatmap("Time to answer", "Of miners that answered.", "s",
                f"sum by (le) (increase(openvalidators_completion_seconds_bucket@[{RATE}]))", width=12),
        lines("Time until the outcome", "Of all queries, those that fail included: a ceiling is the time-out.", "s",
              quantiles("openvalidators_dendrite_query_seconds")),
        lines("Traffic", "Bodies sent and received.", "Bps",
              {"sent": f"sum(rate(openvalidators_dendrite_sent_bytes_total@[{RATE}]))",
               "received": f"sum(rate(openvalidators_dendrite_received_bytes_total@[{RATE}]))"}),
        lines("Signing", "Share of one core that signing takes.", "percentunit",
              {"signing": f"sum(rate(openvalidators_dendrite_sign_seconds_total@[{RATE}]))"}),
    ],
    "Who": [
        table("The twenty that answer least", "Success since they are known. Labels: uid.", "percentunit",
              {"answered": "bottomk(20, openvalidators_uid_success_ratio@)"}, width=12, height=10),
        lines("Success of miners", "Share of the steps asked that were answered: quartiles over the uids.", "percentunit",
              {"best quarter": "quantile(0.75, openvalidators_uid_success_ratio@)",
               "median": "quantile(0.5, openvalidators_uid_success_ratio@)",
               "worst quarter": "quantile(0.25, openvalidators_uid_success_ratio@)"}, width=12, height=10, min=0, max=1),
    ],
}

GATING = {
    "Is it all right?": [
        stat("Coverage", "Share of the available miners asked within the longest wait allowed.", "percentunit",
             "openvalidators_gating_coverage@", [(None, RED), (0.5, ORANGE), (0.9, GREEN)], width=6, decimals=0),
        stat("Longest wait", "Blocks since the most neglected available miner was asked.", "none", "openvalidators_gating_longest_wait_blocks@", width=6),
        stat("Steps without anybody to ask", "In the last hour.", "none", "increase(openvalidators_gating_nobody_total@[1h])",
             [(None, GREEN), (1, RED)], width=6, runbook="minersvanished"),
        stat("Loss", "Of the head on the latest step, before it learned from it.", "none", "openvalidators_gating_loss@", width=6, decimals=4),
    ],
    "Learning": [
        lines("Loss", "It falls while there is something to learn and stays level afterwards.", "none", {"loss": "openvalidators_gating_loss@"}),
        lines("How steps are routed", "Learned routing begins after its warm-up.", "none", rate("openvalidators_gating_steps_total", "routing"), stacked=True),
        lines("What is remembered", "Rows of the head and steps that forecasts rest on.", "none",
              {"hotkeys in the head": "openvalidators_gating_head_rows@", "steps": "openvalidators_gating_memory_steps@"}),
    ],
    "Fairness": [
        lines("Evenness", "1 asks all alike; the lower, the more the promising ones are preferred.", "none",
              {"evenness": "openvalidators_gating_evenness@", "coverage": "openvalidators_gating_coverage@"}, min=0, max=1),
        lines("Waiting", "Blocks the most neglected available miner has waited.", "none", {"longest wait": "openvalidators_gating_longest_wait_blocks@"}),
        lines("Miners available", "At the latest routing; and those who are not asked, by why.", "none",
             {"available": "openvalidators_gating_available@", "{{reason}}": "openvalidators_gating_excluded@"}),
    ],
    "Who is asked about what": [
        bars("Sought out for each topic", "The three uids asked most about it, and how many times as often as uniform routing would.", "none",
             {"{{topic}}: uid {{uid}}": "openvalidators_gating_sought_out_ratio@"}, width=24, height=14, min=0),
    ],
    "Trouble": [
        lines("Asked about", "Settled questions by topic of the text.", "reqps", rate("openvalidators_gating_asked_about_total", "topic"), stacked=True),
        lines("Exceptions", "Per minute.", "none",
              {name: f"60 * sum(rate(openvalidators_gating_{metric}_total@[{RATE}]))" for name, metric in (
                  ("asked twice in a forward", "repeated"), ("too few miners", "short"), ("nobody", "nobody"), ("prompt not read in time", "unread"),
                  ("not learned from", "refused"), ("step without outcome", "left_out"))}),
        lines("Miners routed to", "A second.", "reqps", {"miners": f"sum(rate(openvalidators_gating_routed_total@[{RATE}]))"}),
    ],
}

WEIGHTS = {
    "Is it all right?": [
        stat("Epochs missed", "In a row, without weights of ours.", "none", "openvalidators_weights_epochs_missed@", STEPS_ZERO, runbook="weightsnotset"),
        stat("Weights last set", "Time since this process last saw its weights on the chain.", "s",
             "time() - (openvalidators_weights_last_set_timestamp_seconds@ > 0)", [(None, GREEN), (8640, ORANGE), (12960, RED)], runbook="weightsnotset"),
        stat("Age in tempos", "Blocks since the chain took weights of ours, by tempo; at 13.9 we count as inactive.", "none",
             "openvalidators_weights_blocks_since_update@ / openvalidators_chain_tempo_blocks@", [(None, GREEN), (2, ORANGE), (10, RED)],
             runbook="activitycutoffnear", decimals=1),
        stat("Commits unrevealed", "One or two are normal where the subnet has commit-reveal.", "none", "openvalidators_weights_commits_unrevealed@",
             [(None, GREEN), (3, ORANGE)], runbook="commitunrevealed"),
        stat("Reveal overdue", "Epochs since the oldest commit was to be revealed.", "none", "openvalidators_weights_reveal_overdue_epochs@",
             STEPS_ZERO, runbook="commitunrevealed"),
        stat("vtrust", "How much of our weights the consensus accepted.", "none", "openvalidators_validator_trust_ratio@",
             [(None, RED), (0.3, ORANGE), (0.6, GREEN)], runbook="vtrustfalling", decimals=2),
        stat("Pruned before us", "Hotkeys a full subnet gives up before ours.", "none", "openvalidators_validator_pruning_rank@",
             [(None, RED), (10, GREEN)], runbook="pruningnear"),
        stat("Hotkeys on the subnet", "Registered now.", "none", "openvalidators_chain_neurons@"),
    ],
    "Standing": [
        lines("vtrust and dividends", "As the chain has them.", "none",
              {"vtrust": "openvalidators_validator_trust_ratio@", "dividends": "openvalidators_validator_dividends_ratio@"}),
        lines("Stake", "Ours, and what the subnet asks for at least.", "none",
              {"stake": "openvalidators_validator_stake_tao@", "threshold": "openvalidators_validator_stake_threshold_tao@"}),
        lines("Emission", "What we earned in the latest epoch.", "none", {"emission": "openvalidators_validator_emission_tao@"}),
    ],
    "Scores": [
        table("The top twenty", "Moving-average score by uid; who holds it is `openvalidators_uid_info`.", "none",
              {"score": "topk(20, openvalidators_uid_score@)"}, width=6, height=10),
        table("The twenty best paid", "Share of our weights last sent, by uid.", "percentunit",
              {"weight": "topk(20, openvalidators_uid_weight@)"}, width=6, height=10),
        lines("Distribution of scores", "Over the uids that have one.", "none",
              {"best": "max(openvalidators_uid_score@)", "best tenth": "quantile(0.9, openvalidators_uid_score@)",
               "median": "quantile(0.5, openvalidators_uid_score@)", "worst tenth": "quantile(0.1, openvalidators_uid_score@)"}, width=6, height=10),
        lines("Our weights and the subnet's incentive", "How much of what we pay the others pay too: the overlap of both shares.", "percentunit",
              {"overlap": "sum((openvalidators_uid_weight@ < openvalidators_uid_incentive_ratio@) or "
                          "(openvalidators_uid_incentive_ratio@ <= openvalidators_uid_weight@))"}, width=6, height=10, min=0, max=1),
    ],
    "Setting": [
        lines("Why not now", "The reason why no weights are set at this block.", "none", {"{{reason}}": "openvalidators_weights_waiting@ == 1"}, stacked=True),
        lines("Intents", "How they went on, in the last hour.", "none", {"{{result}}": "sum by (result) (increase(openvalidators_weights_intents_total@[1h]))"}),
        lines("Submissions", "What the chain said, in the last hour.", "none",
              {"{{result}}": "sum by (result) (increase(openvalidators_chain_submissions_total@[1h]))"}),
        lines("Records", "Hotkeys with a score; and what should stay at zero.", "none",
              {"hotkeys with a score": "openvalidators_weights_hotkeys@",
               "intents not recorded": "openvalidators_weights_unrecorded_intents_total@",
               "steps without outcome": "openvalidators_weights_left_out_total@"}),
    ],
}

PIPELINE = {
    "Is it all right?": [
        stat("Fullest inbox", "Places taken, of those there are.", "percentunit",
             "max(openvalidators_mailbox_depth@ / openvalidators_mailbox_capacity@)", [(None, GREEN), (0.5, ORANGE), (0.9, RED)], width=6,
             runbook="noprogress", decimals=0),
        stat("Device busy", "Share of the time the busiest device computes.", "percentunit",
             f"max(sum by (device) (rate(openvalidators_inference_busy_seconds_total@[{RATE}])))", width=6, decimals=0),
        stat("Requests waiting", "For a device.", "none", "max(openvalidators_inference_queue_depth@)", [(None, GREEN), (16, ORANGE), (30, RED)], width=6),
        stat("Out of memory", "Batches split in the last hour.", "none", "sum(increase(openvalidators_inference_out_of_memory_total@[1h]))",
             [(None, GREEN), (1, ORANGE), (6, RED)], width=6, runbook="outofmemoryrising"),
    ],
    "Forwards": [
        lines("How forwards end", "Per hour; `complete` should be nearly all.", "none",
              {"{{end}}": f"3600 * sum by (end) (rate(openvalidators_forwards_total@[{RATE}]))"}, stacked=True),
        lines("Time of a step, by part", "Mean.", "s",
              {"{{part}}": f"sum by (part) (rate(openvalidators_step_part_seconds_sum@[{RATE}])) / sum by (part) (rate(openvalidators_step_part_seconds_count@[{RATE}]))"},
              stacked=True),
        lines("Time of a step", "From the choice of miners until the raw scores were there.", "s", quantiles("openvalidators_step_seconds")),
        lines("Waiting to settle", "A gathered step waits for the one before it.", "s", quantiles("openvalidators_settle_wait_seconds")),
        lines("Steps settled", "By kind and result.", "none",
              {"{{step}} {{result}}": f"sum by (step, result) (rate(openvalidators_forward_steps_total@[{RATE}]))"}, stacked=True),
        lines("Settling repeated", "Attempts a minute that had to be made again; zero is right.", "none",
              {"all parts": f"60 * (sum(rate(openvalidators_settle_retries_total@[{RATE}])) or vector(0))"}),
    ],
    "Prompt sources": [
        lines("Texts read ahead", "Each forward takes one; at zero another source stands in.", "none", {"{{source}}": "openvalidators_prompt_source_texts@"}),
        lines("Forwards by source", "Per hour; `missed` are those that another source stood in for.", "none",
              {"{{source}}": f"3600 * sum by (source) (rate(openvalidators_prompt_source_draws_total@[{RATE}]))",
               "{{source}} missed": f"3600 * sum by (source) (rate(openvalidators_prompt_source_misses_total@[{RATE}]))"}),
        lines("Trouble", "`down` while a source cannot be read; failures in an hour, each tried again.", "none",
              {"{{source}} down": "1 - openvalidators_prompt_source_up@",
               "{{source}} failures": "sum by (source) (increase(openvalidators_prompt_source_failures_total@[1h]))"}),
        lines("Records read", "A second.", "none", rate("openvalidators_prompt_source_records_total", "source"), width=12),
        lines("Records left out", "A second, by reason: docs/prompts.md.", "none",
              {"{{source}} {{reason}}": f"sum by (source, reason) (rate(openvalidators_prompt_source_left_out_total@[{RATE}]))"}, width=12),
    ],
    "Inboxes": [
        lines("Depth", "Messages that hold a place.", "none", {"{{inbox}}": "openvalidators_mailbox_depth@"}, width=12),
        lines("Waiting for a place", "Share of the time that senders wait, by inbox.", "percentunit", rate("openvalidators_mailbox_wait_seconds_total", "inbox"), width=12),
    ],
    "Device": [
        lines("Busy, by model", "Share of the time.", "percentunit",
              {"{{device}} {{model}}": f"sum by (device, model) (rate(openvalidators_inference_busy_seconds_total@[{RATE}]))"}, stacked=True),
        lines("Tokens a second", "By model; a shared prefix counts once.", "none", rate("openvalidators_inference_tokens_total", "model"), stacked=True),
        lines("Tokens in a batch", "Mean, by model, and the budget of the device.", "none",
              {"{{model}}": f"sum by (model) (rate(openvalidators_inference_tokens_total@[{RATE}])) / sum by (model) (rate(openvalidators_inference_batches_total@[{RATE}]))",
               "budget of {{device}}": "openvalidators_inference_budget_tokens@"}),
        lines("Queue", "Requests waiting for a device.", "none", {"{{device}}": "openvalidators_inference_queue_depth@"}),
        lines("Work saved", "Texts answered from an equal text's work.", "reqps", rate("openvalidators_inference_deduplicated_total", "model")),
        lines("Failures", "Batches or rows that failed, rows that were no numbers, requests whose caller had gone; per minute.", "none",
              {"failed": f"60 * sum(rate(openvalidators_inference_failures_total@[{RATE}]))",
               "no number": f"60 * sum(rate(openvalidators_inference_not_finite_total@[{RATE}]))",
               "caller gone": f"60 * sum(rate(openvalidators_inference_abandoned_total@[{RATE}]))",
               "out of memory": f"60 * sum(rate(openvalidators_inference_out_of_memory_total@[{RATE}]))"}),
    ],
    "Models elsewhere": [
        lines("Requests", "To servers, by outcome.", "reqps",
              {"{{server}} {{outcome}}": f"sum by (server, outcome) (rate(openvalidators_inference_remote_requests_total@[{RATE}]))"}),
        lines("Time of an answer", "Mean, by server.", "s",
              {"{{server}}": f"sum by (server) (rate(openvalidators_inference_remote_seconds_total@[{RATE}])) / sum by (server) (rate(openvalidators_inference_remote_requests_total@[{RATE}]))"}),
        lines("Servers", "1 for one that may be asked; and requests a minute that no server answered.", "none",
              {"{{model}} at {{server}}": "openvalidators_inference_remote_healthy@",
               "answered here instead": f"60 * sum(rate(openvalidators_inference_remote_fallbacks_total@[{RATE}]))"}),
    ],
}

PROCESS = {
    "Is it all right?": [
        stat("Memory", "Resident.", "bytes", "process_resident_memory_bytes@", width=4, runbook="memorygrowing"),
        stat("Processor", "Cores in use.", "none", f"rate(process_cpu_seconds_total@[{RATE}])", width=4, decimals=2),
        stat("Open files", "Of those allowed.", "percentunit", "process_open_fds@ / process_max_fds@", [(None, GREEN), (0.6, ORANGE), (0.9, RED)],
             width=4, decimals=0),
        stat("Disk free", "Where the state directory is.", "bytes", "openvalidators_state_free_bytes@", [(None, RED), (2e9, ORANGE), (1e10, GREEN)], width=4,
             runbook="diskfilling"),
        stat("Clock", "Ours less the newest block's.", "s", "openvalidators_chain_clock_skew_seconds@", [(None, RED), (-5, GREEN), (60, RED)], width=4,
             runbook="clockskew", decimals=1),
        stat("Starts", "Of the program in the last hour.", "none", "changes(process_start_time_seconds@[1h])", [(None, GREEN), (2, ORANGE), (4, RED)],
             width=4, runbook="restartloop"),
    ],
    "Process": [
        lines("Memory", "Resident and virtual.", "bytes", {"resident": "process_resident_memory_bytes@", "virtual": "process_virtual_memory_bytes@"}),
        lines("Processor", "Cores in use.", "none", {"cores": f"rate(process_cpu_seconds_total@[{RATE}])"}),
        lines("Files and threads", "Open now.", "none", {"files": "process_open_fds@", "threads": "process_threads@"}),
    ],
    "Disk": [
        lines("Room", "Where the state directory is.", "bytes", {"free": "openvalidators_state_free_bytes@", "size": "openvalidators_state_size_bytes@"}),
        lines("Ledger", "Database and write-ahead log.", "bytes", {"ledger": "openvalidators_ledger_bytes@"}),
        lines("Event log", "Bytes written a second, and files begun anew in the last hour.", "none",
              {"bytes a second": f"rate(openvalidators_event_log_bytes_total@[{RATE}])",
               "begun anew": "increase(openvalidators_event_log_rotations_total@[1h])"}),
        lines("Time of an operation of the ledger", "95 % of them, commit included.", "s",
              {"{{operation}}": f"histogram_quantile(0.95, sum by (le, operation) (rate(openvalidators_ledger_operation_seconds_bucket@[{RATE}]))) > 0"}),
        lines("Ledger: steps", "Made durable, removed and left without texts, a minute; 1 while it takes none.", "none",
              {"made durable": f"60 * rate(openvalidators_ledger_appends_total@[{RATE}])",
               "removed": f"60 * rate(openvalidators_ledger_pruned_steps_total@[{RATE}])",
               "texts dropped": f"60 * rate(openvalidators_ledger_textless_steps_total@[{RATE}])",
               "refused: full": "openvalidators_ledger_full@"}),
        lines("Ledger and reporting: errors", "A minute; zero is right.", "none",
              {"ledger": f"60 * sum(rate(openvalidators_ledger_errors_total@[{RATE}]))",
               "reporting": f"60 * rate(openvalidators_reporting_errors_total@[{RATE}])"}),
    ],
    "Chain": [
        lines("Blocks", "Seen a minute, and those with a step.", "none", {"blocks": f"60 * deriv(openvalidators_chain_block@[{RATE}])",
                                                    "of the latest step": f"60 * deriv(openvalidators_last_step_block@[{RATE}])"}),
        lines("Age", "Of the newest block and of the metagraph in use.", "s",
              {"block": "openvalidators_chain_block_age_seconds@", "metagraph": "openvalidators_chain_metagraph_age_seconds@"}),
        lines("Calls", "By result.", "reqps", rate("openvalidators_chain_calls_total", "result"), stacked=True),
        lines("Trouble of the chain", "In the last hour: nodes left for the next, commits whose weights never came.", "none",
              {"nodes left": "increase(openvalidators_chain_node_changes_total@[1h])",
               "commits lost": "increase(openvalidators_weights_lost_commits_total@[1h])"}),
    ],
    "wandb": [
        lines("Waiting for wandb", "Bytes on the disk that its server has not taken.", "bytes", {"backlog": "openvalidators_wandb_backlog_bytes@"}),
        lines("Rows", "Written and taken, a minute.", "none",
              {"written": f"60 * rate(openvalidators_wandb_rows_total@[{RATE}])",
               "taken": f"60 * rate(openvalidators_wandb_acknowledged_rows_total@[{RATE}])"}),
        lines("Requests", "To its server, by result.", "reqps", rate("openvalidators_wandb_requests_total", "result")),
        stat("Taken last", "Time since the server took anything.", "s",
             "time() - (openvalidators_wandb_last_acknowledged_timestamp_seconds@ > 0)", [(None, GREEN), (600, ORANGE), (1800, RED)], width=4,
             runbook="wandbbacklog"),
        stat("wandb's clock", "How far ours is ahead of it.", "s", "openvalidators_wandb_clock_skew_seconds@", width=4, decimals=1),
    ],
    "Who keeps up": [
        lines("Steps behind the ledger", "Of each who follows it: zero or one is right.", "none",
              {"rewards": "openvalidators_ledger_latest_sequence@ - openvalidators_rewards_sequence@",
               "weights": "openvalidators_ledger_latest_sequence@ - openvalidators_weights_sequence@",
               "gating": "openvalidators_ledger_latest_sequence@ - openvalidators_gating_sequence@",
               "reporting": "openvalidators_ledger_latest_sequence@ - openvalidators_reported_sequence@"}, width=12),
        lines("Folds", "Steps folded into the scores, a minute.", "none", {"folds": f"60 * rate(openvalidators_weights_folds_total@[{RATE}])"}, width=12),
    ],
}

DASHBOARDS = {
    "overview": ("Overview", OVERVIEW),
    "rewards": ("Rewards by model", REWARDS),
    "network": ("Network", NETWORK),
    "gating": ("Gating", GATING),
    "weights": ("Weights and scores", WEIGHTS),
    "pipeline": ("Pipeline", PIPELINE),
    "process": ("Process and hardware", PROCESS),
}

# === writing ===


def variables():
    def label(name, title):
        return {
            "name": name, "label": title, "type": "query", "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "query": f"label_values(openvalidators_build_info, {name})", "refresh": 2, "multi": True, "includeAll": True,
            "allValue": ".+", "sort": 1, "current": {"text": "All", "value": "$__all"},
        }
    runbook = "/public/runbook/operations.md"
    return [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
         "current": {"text": "default", "value": "default"}},
        label("job", "job"),
        label("instance", "instance"),
        {"name": "runbook", "label": "Runbook", "type": "textbox", "hide": 2, "query": runbook, "current": {"text": runbook, "value": runbook},
         "description": "Where docs/operations.md is served; the compose file lets Grafana serve it here."},
    ]


def dashboard(name, title, rows):
    panels, y, number = [], 0, 1
    for row, members in rows.items():
        panels.append({"id": number, "type": "row", "title": row, "collapsed": False, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}, "panels": []})
        y, x, tallest, number = y + 1, 0, 0, number + 1
        for member in members:
            place = member["gridPos"]
            if x + place["w"] > 24:
                x, y, tallest = 0, y + tallest, 0
            panels.append({"id": number, **member, "gridPos": {**place, "x": x, "y": y}})
            x, tallest, number = x + place["w"], max(tallest, place["h"]), number + 1
        y += tallest
    return {
        "id": None, "uid": f"openvalidators-{name}", "title": f"openvalidators / {title}", "tags": ["openvalidators"], "schemaVersion": 39,
        "version": 1, "editable": False, "graphTooltip": 1, "refresh": "30s", "time": {"from": "now-6h", "to": "now"}, "timezone": "browser",
        "links": [
            link("openvalidators", "", type="dashboards", tags=["openvalidators"], includeVars=True, keepTime=True, targetBlank=False),
            link("Runbook", "${runbook}", icon="doc", tooltip="What to do when an alert fires"),
        ],
        "templating": {"list": variables()}, "annotations": {"list": [
            {"name": "Alerts", "enable": True, "hide": False, "iconColor": "red", "datasource": {"type": "prometheus", "uid": "${datasource}"},
             "target": {"refId": "Alerts", "expr": selected('ALERTS@{alertstate="firing",severity="critical"}'), "legendFormat": "{{alertname}}"}},
        ]},
        "panels": panels,
    }


def main():
    stale = []
    for name, (title, rows) in DASHBOARDS.items():
        path, text = HERE / f"{name}.json", json.dumps(dashboard(name, title, rows), indent=1, ensure_ascii=False) + "\n"
        if "--check" not in sys.argv:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(path.name)
    if stale:
        sys.exit(f"{', '.join(stale)}: not as make.py writes them. Run dashboards/grafana/make.py")


if __name__ == "__main__":
    main()
