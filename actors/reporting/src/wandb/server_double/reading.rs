//! What the public API of the real client asks for to read runs back.

use serde_json::{Value, json};

use super::{OWNER, State};

/// The answer to a question about the project or one run; `None` for other questions.
pub(super) fn answer(state: &State, name: &str, variables: &Value) -> Option<Value> {
    let text = |key: &str| variables[key].as_str().unwrap_or_default();
    let project = format!("{}/{}/", text("entity"), text("project"));
    let asked = ["name", "run", "runName"].into_iter().map(text).find(|run| !run.is_empty()).unwrap_or_default();
    let run = || state.runs.get(&format!("{project}{asked}"));
    let rows = || -> Option<Vec<Value>> {
        Some(run()?.history.iter().map(|line| serde_json::from_str(line).unwrap()).collect())
    };
    let of_run = |answer: Value| json!({ "project": { "internalId": "1", "run": answer } });
    Some(match name {
        "Runs" => {
            let of_project = state.runs.keys().filter_map(|name| name.strip_prefix(&*project));
            let nodes = of_project.map(|id| json!({ "node": described(state, &project, id), "cursor": id }));
            let edges: Vec<_> = nodes.collect();
            let page = json!({ "endCursor": null, "hasNextPage": false });
            json!({ "project": {
                "internalId": "1", "runCount": edges.len(), "readOnly": false, "runs": { "edges": edges, "pageInfo": page },
            } })
        }
        "Run" => of_run(described(state, &project, asked)),
        "RunHistoryKeys" => of_run(json!({ "historyKeys": keys(&rows()?) })),
        "RunParquetHistory" => of_run(json!({ "parquetHistory": { "parquetUrls": [], "liveData": rows()? } })),
        "HistoryPage" => {
            let (from, to) = (variables["minStep"].as_i64()?, variables["maxStep"].as_i64()?);
            let rows =
                rows()?.into_iter().filter(|row| row["_step"].as_i64().is_some_and(|step| (from..to).contains(&step)));
            of_run(json!({ "history": rows.map(|row| row.to_string()).collect::<Vec<_>>() }))
        }
        _ => return None,
    })
}

fn described(state: &State, project: &str, id: &str) -> Value {
    let Some(run) = state.runs.get(&format!("{project}{id}")) else { return Value::Null };
    let rows: Vec<Value> = run.history.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let at = "2026-11-22T09:00:00";
    json!({
        "id": "UnVuOjE=", "name": id, "displayName": id, "tags": run.tags, "notes": run.notes, "description": run.notes,
        "state": if run.exit_code == Some(0) { "finished" } else { "running" }, "config": run.config, "group": null,
        "jobType": null, "commit": null, "readOnly": false, "createdAt": at, "heartbeatAt": at, "systemMetrics": "{}",
        "summaryMetrics": run.summary, "historyLineCount": rows.len(), "sweepName": null, "projectId": 1,
        "user": { "name": "Fake", "username": OWNER }, "historyKeys": keys(&rows),
    })
}

fn keys(rows: &[Value]) -> Value {
    let of_row = |row: &Value| row.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    let about = json!({ "typeCounts": [{ "type": "string", "count": rows.len() }], "monotonic": false });
    let keys: serde_json::Map<_, _> = rows.iter().flat_map(of_row).map(|key| (key, about.clone())).collect();
    json!({ "keys": keys, "sets": [], "lastStep": rows.last().map_or(-1, |row| row["_step"].as_i64().unwrap_or(-1)) })
}
