//! What the public API of the real client asks for to read runs back.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{OWNER, State};

/// The answer to a question about the project or one run; `None` for other questions.
pub(super) fn answer(state: &State, name: &str, variables: &Value, address: SocketAddr) -> Option<Value> {
    let text = |key: &str| variables[key].as_str().unwrap_or_default();
    let project = format!("{}/{}/", text("entity"), text("project"));
    let asked = ["name", "run", "runName"].into_iter().map(text).find(|run| !run.is_empty()).unwrap_or_default();
    let run = || state.runs.get(&format!("{project}{asked}"));
    let rows = || -> Option<Vec<Value>> {
        Some(run()?.history.iter().map(|line| serde_json::from_str(line).unwrap()).collect())
    };
    let of_run = |answer: Value| json!({ "project": { "internalId": "1", "run": answer } });
    Some(match name {
        "Runs" if !state.runs.keys().any(|name| name.starts_with(&*project)) => json!({ "project": null }),
        "Runs" => {
            let filters: Value = serde_json::from_str(variables["filters"].as_str().unwrap_or("{}")).unwrap();
            let of_project = state.runs.iter().filter(|(_, run)| passes(&filters, &run.tags));
            let ids: Vec<_> = of_project.filter_map(|(name, _)| name.strip_prefix(&*project)).collect();
            let cursor = variables["cursor"].as_str();
            let from = cursor.map_or(0, |cursor| ids.iter().position(|id| *id == cursor).unwrap() + 1);
            let asked = variables["perPage"].as_u64().unwrap_or(50) as usize;
            let page = &ids[from..ids.len().min(from + asked.min(state.runs_page.unwrap_or(asked)))];
            let more = page.last().is_some_and(|last| *last != ids[ids.len() - 1]);
            let edges: Vec<_> =
                page.iter().map(|id| json!({ "node": described(state, &project, id), "cursor": id })).collect();
            let page = json!({ "endCursor": page.last(), "hasNextPage": more });
            json!({ "project": {
                "internalId": "1", "runCount": ids.len(), "readOnly": false, "runs": { "edges": edges, "pageInfo": page },
            } })
        }
        "Run" => of_run(described(state, &project, asked)),
        "RunHistoryKeys" => of_run(json!({ "historyKeys": keys(&rows()?) })),
        "RunParquetHistory" => {
            let (exports, first) =
                state.exports.get(&format!("{project}{asked}")).map_or((0, 0), |(e, f)| (e.len(), *f));
            let url = |number| format!("http://{address}/export/{project}{asked}/{number}?signature=1");
            let urls: Vec<_> = (0..exports).map(url).collect();
            let live = rows()?.into_iter().filter(|row| row["_step"].as_i64().is_some_and(|step| step >= first));
            let live: Vec<_> = live.collect();
            of_run(json!({ "parquetHistory": { "parquetUrls": urls, "liveData": live } }))
        }
        "HistoryPage" => {
            let (from, to) = (variables["minStep"].as_i64()?, variables["maxStep"].as_i64()?);
            let rows =
                rows()?.into_iter().filter(|row| row["_step"].as_i64().is_some_and(|step| (from..to).contains(&step)));
            of_run(json!({ "history": rows.map(|row| row.to_string()).collect::<Vec<_>>() }))
        }
        _ => return None,
    })
}

/// A filter of tags, in the words of MongoDB that the server takes.
fn passes(filters: &Value, tags: &Value) -> bool {
    let has = |tag: &Value| tags.as_array().is_some_and(|tags| tags.contains(tag));
    let any = |filter: &Value| filter["tags"]["$in"].as_array().is_none_or(|tags| tags.iter().any(has));
    any(filters) && filters["$and"].as_array().is_none_or(|all| all.iter().all(any))
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
