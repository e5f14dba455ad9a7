use openvalidators_tables::{Column, Shadow, StepRow, figures::Options};

use super::*;

/// Steps whose miners write what would run in a browser and move a terminal's cursor.
fn figures() -> Vec<Figure> {
    let mut figures = Figures::new(Options::default());
    for at in 0..12_i64 {
        figures.add(&StepRow {
            name: ["augment", "followup0", "answer0"][(at % 3) as usize].into(),
            timestamp: 1_795_339_015_000_000 + at * 600_000_000,
            topic: Some("rivers & seas".into()),
            uids: vec![1, 2, 3],
            completions: vec!["<script>alert(1)</script> \u{1b}[31m and forty characters more of it".into(); 3],
            completion_times: vec![Some(0.5), Some(1.5), Some(9.0)],
            rewards: vec![Some(0.1 * at as f64), Some(0.0), Some(0.5)],
            columns: vec![Column {
                name: "nsfw_filter",
                raw: vec![Some(1.0), Some(0.0), Some(1.0)],
                normalized: vec![],
            }],
            shadows: vec![Shadow { name: "prompt_reward_model".into(), correlation: Some(0.3), ..Shadow::default() }],
            ..StepRow::default()
        });
    }
    figures.finish()
}

#[test]
fn a_page_has_every_figure_and_runs_nothing() {
    let all = figures();
    let page = page::page(&all, "read <b>12</b> steps");
    assert!(all.iter().all(|figure| page.contains(&format!("id=\"{}\"", figure.id))));
    assert!(!page.contains("Nothing was recorded"), "every figure has data here");
    assert!(
        !page.contains("<script") && !page.contains("<b>") && !page.contains('\u{1b}'),
        "what miners write is text"
    );
    assert!(
        !page.contains("http://") && !page.contains("https://") && !page.contains("url("),
        "nothing from elsewhere"
    );
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert!(!page.contains("NaN"), "no place is undefined");
}

#[test]
fn tables_fit_a_terminal_and_hold_nothing_that_moves_its_cursor() {
    for figure in figures() {
        let table = terminal::table(&figure);
        assert!(table.starts_with(&figure.title) && table.lines().count() > 4, "{table}");
        assert!(!table.contains('\u{1b}'), "{table}");
    }
    let nothing = Figures::new(Options::default()).finish();
    assert!(terminal::table(&nothing[0]).contains("nothing was recorded"));
}

#[test]
fn a_figure_alone_is_data_that_can_be_read() {
    let folder = tempfile::TempDir::new().unwrap();
    let all = figures();
    let leaderboard = all.iter().find(|figure| figure.id == "leaderboard").unwrap();
    write_data(folder.path(), leaderboard, "", false).unwrap();
    let json: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.path().join("leaderboard.json")).unwrap()).unwrap();
    assert_eq!((&json["form"], &json["series"][0]["labels"][0]), (&"bars".into(), &"1".into()));
    let csv = fs::read_to_string(folder.path().join("leaderboard.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 3, "{csv}");
    let again = write_data(folder.path(), leaderboard, "", false).unwrap_err();
    assert!(again.to_string().contains("--force"), "{again}");
}

#[test]
fn an_unknown_figure_is_named_with_those_there_are() {
    let error = chosen(figures(), &["pie".to_owned()]).unwrap_err().to_string();
    assert!(error.contains("--figure pie") && error.contains("leaderboard"), "{error}");
    assert_eq!(chosen(figures(), &["copycats".to_owned()]).unwrap().len(), 1);
}
