//! What a real server answered, kept in `tests/fixtures/remote`: it stands in for the server, unless an environment variable
//! names one. Then that one is asked, and with `OPENVALIDATORS_TEST_RECORD=1` what it answers is kept anew.

use std::{fs, path::PathBuf, sync::Arc};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    double::{AsyncAnswer, Double, Reply, Seen},
    fixture,
};

/// A request and what was answered to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Exchange {
    method: String,
    path: String,
    request: Value,
    status: u16,
    response: Value,
}

/// What lies in a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct File {
    /// Of which server, of which version, how.
    recorded: String,
    exchanges: Vec<Exchange>,
}

/// Exchanges with a server, replayed or made anew.
pub(super) struct Recorded {
    pub(super) server: Double,
    path: PathBuf,
    exchanges: Arc<Mutex<Vec<Exchange>>>,
    real: Option<String>,
}

struct Answers {
    exchanges: Arc<Mutex<Vec<Exchange>>>,
    real: Option<(String, reqwest::Client)>,
}

impl Recorded {
    /// The exchanges called `name`, or the server that the environment names by `variable`.
    pub(super) async fn open(name: &str, variable: &str) -> Self {
        let path = fixture("remote").join(format!("{name}.json"));
        let real = std::env::var(variable).ok();
        let exchanges = if real.is_some() {
            Vec::new()
        } else {
            serde_json::from_slice::<File>(&fs::read(&path).unwrap()).unwrap().exchanges
        };
        let exchanges = Arc::new(Mutex::new(exchanges));
        let _ = rustls::crypto::ring::default_provider().install_default();
        let answers = Answers {
            exchanges: exchanges.clone(),
            real: real.clone().map(|url| (url, reqwest::Client::builder().no_proxy().build().unwrap())),
        };
        Self { server: Double::serve(answers).await, path, exchanges, real }
    }

    /// Keeps what a real server answered, if that is wanted.
    pub(super) async fn keep(self) {
        let (Some(url), Ok(_)) = (&self.real, std::env::var("OPENVALIDATORS_TEST_RECORD")) else { return };
        let version: Value = reqwest::get(format!("{url}/version")).await.unwrap().json().await.unwrap();
        let version = version["version"].as_str().unwrap();
        let how = "docs/remote-engines.md says how; only the path of the folder is changed";
        let recorded = format!("vLLM {version} on a processor, --dtype float32; {how}");
        let mut exchanges = self.exchanges.lock().clone();
        for exchange in exchanges.iter_mut().filter(|exchange| exchange.path == "/v1/models") {
            let root = &mut exchange.response["data"][0]["root"];
            let name = root.as_str().unwrap().rsplit(['/', '-']).next().unwrap();
            *root = format!("/models/{name}").into();
        }
        exchanges.sort_by_key(|exchange| (exchange.path.clone(), exchange.request.to_string()));
        exchanges.dedup_by_key(|exchange| (exchange.path.clone(), exchange.request.to_string()));
        let lines: Vec<String> = exchanges.iter().map(|exchange| serde_json::to_string(exchange).unwrap()).collect();
        let recorded = serde_json::to_string(&recorded).unwrap();
        fs::write(&self.path, format!("{{\"recorded\": {recorded}, \"exchanges\": [\n{}\n]}}\n", lines.join(",\n")))
            .unwrap();
    }
}

impl AsyncAnswer for Answers {
    async fn answer(&self, seen: &Seen) -> Reply {
        let Some((url, http)) = &self.real else {
            let known = self.exchanges.lock();
            let same = |known: &&Exchange| known.path == seen.path && known.request == seen.body;
            return match known.iter().find(same) {
                Some(known) => Reply::Status(known.status, "", known.response.to_string()),
                None => Reply::Status(501, "", format!("never recorded: {} {}", seen.path, seen.body)),
            };
        };
        let request = match seen.method.as_str() {
            "GET" => http.get(format!("{url}{}", seen.path)),
            _ => http.post(format!("{url}{}", seen.path)).json(&seen.body),
        };
        let response = request.send().await.unwrap();
        let (status, response) = (response.status().as_u16(), response.json::<Value>().await.unwrap());
        let Seen { method, path, body, .. } = seen.clone();
        self.exchanges.lock().push(Exchange { method, path, request: body, status, response: response.clone() });
        Reply::Status(status, "", response.to_string())
    }
}
