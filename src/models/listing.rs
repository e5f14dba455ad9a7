//! What `openvalidators models` prints.

use comfy_table::{CellAlignment, Table, presets};
use openvalidators_hub::{Hub, Look, ModelState, Trust};
use openvalidators_inference::Dtype;
use serde_json::{Value, json};

use super::stack::{Amount, Bytes, Member, Need, Stack};
use crate::{
    config::Config,
    console::{print_json, print_text},
};

/// Models, and what they take together.
pub struct Listing<'a> {
    /// One for each model.
    pub rows: Vec<Row<'a>>,
    stack: &'a Stack,
    verified: bool,
}

/// A model.
pub struct Row<'a> {
    /// What is here of it.
    pub state: ModelState,
    member: &'a Member,
    trust: Trust,
    used_by: Vec<&'static str>,
    licence: Option<String>,
    folder: String,
}

// === impl Listing ===

impl<'a> Listing<'a> {
    /// Looks at every model of a stack.
    ///
    /// # Errors
    /// When a file is there but cannot be read.
    pub fn new(config: &Config, hub: &Hub, stack: &'a Stack, look: Look) -> anyhow::Result<Self> {
        let used = config.models_of_run();
        let row = |member: &'a Member| {
            let name = &*member.name.0;
            anyhow::Ok(Row {
                state: hub.state(name, look)?,
                member,
                trust: hub.files(name)?.0,
                used_by: used.iter().filter(|(_, model, _)| **model == member.name).map(|(key, ..)| *key).collect(),
                licence: hub.entry(name)?.licence.clone(),
                folder: hub.folder(name).display().to_string(),
            })
        };
        let rows = stack.models.iter().map(row).collect::<anyhow::Result<_>>()?;
        Ok(Self { rows, stack, verified: look == Look::Digests })
    }

    /// Prints it: a table for people, a JSON object for each model and one for all of them for machines.
    pub fn print(&self, as_json: bool) {
        if as_json {
            self.rows.iter().for_each(|row| print_json(&self.json(row)));
            print_json(&self.json_of_all());
        } else {
            print_text(&self.table().to_string());
            for row in self.rows.iter().filter(|row| row.state != ModelState::Missing || row.trust == Trust::Directory)
            {
                if let Some(trouble) = trouble(row) {
                    print_text(&trouble);
                }
            }
            print_text(&format!("together {}", self.stack.summary()));
            if self.rows.iter().any(|row| row.state == ModelState::Missing) {
                print_text("what is missing is fetched by `run`, or by `openvalidators models fetch [NAME…]`");
            }
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["model", "state", "parameters", "disk", "f32", "f16, bf16", "used by"]);
        for row in &self.rows {
            let Member { name, parameters, file_bytes, .. } = row.member;
            let known = |bytes: u64| if parameters.is_some() { Bytes(bytes).to_string() } else { "?".to_owned() };
            table.add_row([
                name.to_string(),
                self.state(row).to_owned(),
                parameters.map_or("?".to_owned(), |numbers| format!("{:.1} M", numbers as f64 / 1e6)),
                file_bytes.map_or("?".to_owned(), |amount| amount.to_string()),
                known(row.member.weights(Dtype::F32)),
                known(row.member.weights(Dtype::Bf16)),
                row.used_by.join(", "),
            ]);
        }
        for column in 2..=5 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }

    fn state(&self, row: &Row<'_>) -> &'static str {
        match (&row.state, row.trust) {
            (ModelState::Present { .. }, Trust::Directory) => "your folder",
            (ModelState::Present { .. }, _) if self.verified => "present, verified",
            (ModelState::Present { .. }, _) => "present",
            (ModelState::Missing, _) => "missing",
            (ModelState::Corrupted { .. }, _) => "damaged",
            (ModelState::Partial { .. }, _) => "in part",
        }
    }

    fn json(&self, row: &Row<'_>) -> Value {
        let Member { name, parameters, dtype, file_bytes, .. } = row.member;
        let weights = |dtype| parameters.map(|_| row.member.weights(dtype));
        json!({
            "event": "model",
            "model": name,
            "state": self.state(row),
            "trouble": trouble(row),
            "pinned": row.trust == Trust::Pinned,
            "parameters": parameters,
            "file_bytes": file_bytes.map(Amount::bytes),
            "file_bytes_exact": matches!(file_bytes, Some(Amount::Exactly(_))),
            "dtype": dtype,
            "memory_bytes": { "f32": weights(Dtype::F32), "f16": weights(Dtype::F16), "bf16": weights(Dtype::Bf16) },
            "used_by": row.used_by,
            "licence": row.licence,
            "folder": row.folder,
            "sha256": match &row.state {
                ModelState::Present { digests } if self.verified => json!(digests),
                _ => Value::Null,
            },
        })
    }

    fn json_of_all(&self) -> Value {
        let need = |dtype| {
            let need @ Need { weights, working, loading } = self.stack.need_as(dtype);
            json!({ "all": need.bytes(), "weights": weights, "working": working, "loading": loading })
        };
        let files = self.stack.file_bytes();
        json!({
            "event": "models",
            "file_bytes": files.bytes(),
            "file_bytes_exact": matches!(files, Amount::Exactly(_)),
            "memory_bytes": { "f32": need(Dtype::F32), "f16": need(Dtype::F16), "bf16": need(Dtype::Bf16) },
        })
    }
}

/// What is wrong with a model, and what to do.
fn trouble(row: &Row<'_>) -> Option<String> {
    let name = &row.member.name;
    let said = match &row.state {
        ModelState::Present { .. } => return None,
        ModelState::Missing if row.trust == Trust::Directory => {
            return Some(format!("{name}: {} is no folder", row.folder));
        }
        ModelState::Missing => "missing".to_owned(),
        ModelState::Corrupted { file, expected, found } => {
            format!("{file} in {} is damaged: expected {expected}, found {found}", row.folder)
        }
        ModelState::Partial { missing, unfinished_bytes } => {
            let missing = if missing.is_empty() { "all files".to_owned() } else { missing.join(", ") };
            format!("{missing} missing, {} begun", Bytes(*unfinished_bytes))
        }
    };
    Some(format!("{name}: {said}; run `openvalidators models fetch {name}`"))
}
