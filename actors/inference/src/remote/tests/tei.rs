//! text-embeddings-inference. No server of it can be had here: these exchanges are written from its documentation (its
//! OpenAPI description, version 1.8), not recorded.

use openvalidators_messages::inference::{Classify, Composed, Input, Overflow, Part};

use super::{
    double::{Double, Reply, Seen},
    *,
};

/// Bytes of a text as numbers: whatever is asked, the row says of which text it is.
fn row_of(text: &serde_json::Value) -> Vec<f64> {
    let text = text.as_str().unwrap();
    vec![3.0 * text.len() as f64, 4.0 * text.len() as f64, 0.0]
}

async fn embedding() -> Double {
    Double::serve(|seen: &Seen| match seen.path.as_str() {
        "/info" => Reply::Json(bert_info()),
        "/embed" => Reply::Json(seen.body["inputs"].as_array().unwrap().iter().map(row_of).collect()),
        path => Reply::Status(404, "", format!("no {path}")),
    })
    .await
}

#[tokio::test]
async fn texts_are_embedded_once_each_in_batches_it_takes() {
    let server = embedding().await;
    let mut setup = Setup::tei(&[&server.url]);
    setup.demands = vec![Demand::Embed(Pooling::Mean), Demand::Embed(Pooling::MeanNormalised)];
    setup.limits.rows_per_request = 100;
    let started = setup.start().await.unwrap();
    let texts: Vec<String> = (0..40).map(|n| format!("text {}", n % 35)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let rows = started.embed(&texts).await.unwrap();
    assert_eq!(rows.len(), 40);
    assert!(rows.iter().all(|row| row.as_deref().unwrap() == [0.6, 0.8, 0.0]), "{:?}", rows[0]);

    let asked = server.asked("/embed");
    let sizes: Vec<_> = asked.iter().map(|body| body["inputs"].as_array().unwrap().len()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 35, "equal texts are sent once");
    assert!(sizes.contains(&32), "as many together as `max_client_batch_size` says: {sizes:?}");
    assert_eq!((&asked[0]["normalize"], &asked[0]["truncate"]), (&json!(false), &json!(true)));

    let plain = started.engine.embed(Embed { pooling: Pooling::Mean, ..embed(&["four"]) }).await.unwrap();
    assert_eq!(plain[0].as_deref().unwrap(), [12.0, 16.0, 0.0]);
    let windows = started.engine.embed(Embed { pooling: Pooling::MeanOfWindows, ..embed(&["four"]) }).await;
    assert!(windows.unwrap_err().to_string().contains("no windows"));
    let facts = &started.engine.models().await[0].digests;
    let fact = |name: &str| facts.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    assert_eq!((fact("server"), fact("model sha")), (Some(server.url.as_str()), Some("abc123")));
    assert_eq!(fact("engine"), Some("text-embeddings-inference"));
}

/// The server would read them as tokens.
#[tokio::test]
async fn special_tokens_that_miners_spell_are_pulled_apart() {
    let server = embedding().await;
    let started = Setup::tei(&[&server.url]).start().await.unwrap();
    started.embed(&["ends [SEP] here", "[CLS][MASK]", "plain"]).await.unwrap();
    assert_eq!(server.asked("/embed")[0]["inputs"], json!(["ends [ SEP] here", "[ CLS][ MASK]", "plain"]));
}

#[tokio::test]
async fn logits_come_in_the_order_of_the_labels_and_pairs_as_pairs() {
    let classifier = json!({"classifier": {"id2label": {"0": "SFW", "1": "NSFW"}, "label2id": {"SFW": 0, "NSFW": 1}}});
    let server = Double::serve(move |seen: &Seen| match seen.path.as_str() {
        "/info" => Reply::Json(with(bert_info(), "model_type", classifier.clone())),
        "/predict" => {
            let one = |place: usize| {
                let (place, label) = (place as f64, ["NSFW", "SFW"]);
                // Greatest first, as it answers.
                json!([{"score": place + 0.5, "label": label[0]}, {"score": -place, "label": label[1]}])
            };
            Reply::Json((0..seen.body["inputs"].as_array().unwrap().len()).map(one).collect())
        }
        path => Reply::Status(404, "", format!("no {path}")),
    })
    .await;
    let mut setup = Setup::tei(&[&server.url]);
    setup.demands = vec![Demand::Classify { overflow: Overflow::Cut, pairs: true }];
    let started = setup.start().await.unwrap();
    assert_eq!(started.engine.kind(&ModelName::new(MODEL)).await, Some(crate::Kind::Classifier));
    let text = |text: &str| Composed::from(Arc::<str>::from(text));
    let ours = Composed(vec![Part::Ours("[SEP] a".into()), Part::Theirs("[SEP]".into())]);
    let inputs = vec![Input::Text(text("one")), Input::Pair(text("a"), text("b")), Input::Pair(ours, text(""))];
    let ask = Classify { model: ModelName::new(MODEL), inputs, overflow: Overflow::Cut };
    let found = started.engine.classify(ask).await.unwrap();
    let found: Vec<_> = found.iter().map(|row| row.as_ref().unwrap()[0].to_vec()).collect();
    assert_eq!(found, [[0.0, 0.5], [-1.0, 1.5], [-2.0, 2.5]]);
    let body = &server.asked("/predict")[0];
    assert_eq!(body["inputs"], json!([["one"], ["a", "b"], ["[SEP] a[ SEP]"]]));
    assert_eq!((&body["raw_scores"], &body["truncate"]), (&json!(true), &json!(true)));
}

fn with(mut info: serde_json::Value, key: &str, value: serde_json::Value) -> serde_json::Value {
    info[key] = value;
    info
}
