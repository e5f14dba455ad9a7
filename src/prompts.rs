//! `openvalidators prompts sample`: what the sources give, before anybody is asked about it.

use std::process::ExitCode;

use openvalidators_messages::prompts::Context;
use openvalidators_prompts::{Mix, Source, Sources, SourcesMetrics};
use openvalidators_runtime::{Seed, SharedClock, SystemClock};
use prometheus::Registry;

use crate::{
    cli::PromptsSample,
    config::Config,
    console::{print_json, print_text},
    shutdown,
};

/// Between two looks at a source that has nothing yet.
const POLL: std::time::Duration = std::time::Duration::from_millis(50);
/// What is shown of a text.
const SHOWN_BYTES: usize = 400;

/// Reads from each source for itself, and prints what comes.
///
/// # Errors
/// When a source cannot be opened, or none has the name asked for.
pub async fn sample(command: &PromptsSample, mut config: Config) -> anyhow::Result<ExitCode> {
    if command.source.is_some() {
        config.prompts.only.clone_from(&command.source);
        config.check()?;
    }
    let clock = SystemClock::shared();
    let wanted = config.prompts.only.clone();
    let names: Vec<String> = match wanted {
        Some(only) => vec![only],
        None => config.prompts.sources.keys().cloned().collect(),
    };
    let mut all_gave = true;
    for name in names {
        config.prompts.only = Some(name.clone());
        let metrics = SourcesMetrics::register(&Registry::new())?;
        // No folder: a look must not move the validator's own place.
        let source =
            Sources::open(&config.prompts, &config.models, &clock)?.start(None, Seed(config.seed), &metrics)?;
        all_gave &= draw(command, &name, &source, Seed(config.seed), &clock).await;
    }
    Ok(if all_gave { ExitCode::SUCCESS } else { ExitCode::from(shutdown::EXIT_FAULT) })
}

/// Draws and prints; false when fewer came than asked for.
async fn draw(command: &PromptsSample, name: &str, source: &Mix, seed: Seed, clock: &SharedClock) -> bool {
    let until = clock.now() + command.patience();
    for number in 0..command.count {
        let context = loop {
            match source.draw(&mut seed.rng("sample", &[number.into()])) {
                Ok(context) => break context,
                Err(error) if clock.now() >= until => {
                    // A mix names its sources, and this one has one.
                    let reason = error.reason.strip_prefix(&format!("{name}: ")).unwrap_or(&error.reason);
                    if command.json {
                        print_json(&serde_json::json!({"event": "no_text", "source": name, "reason": reason}));
                    } else {
                        let waited = command.patience;
                        print_text(&format!("{name}: {number} of {} texts within {waited} s: {reason}", command.count));
                    }
                    return false;
                }
                Err(_) => clock.sleep(POLL).await,
            }
        };
        if command.json {
            let Context { source, text } = &context;
            print_json(&serde_json::json!({"event": "text", "source": name, "place": source, "text": text}));
        } else {
            print_text(&shown(&context));
        }
    }
    true
}

/// Where a text is from, how long it is, and how it begins.
fn shown(Context { source, text }: &Context) -> String {
    let start = &text[..text.floor_char_boundary(SHOWN_BYTES)];
    let more = if start.len() < text.len() { " …" } else { "" };
    format!("{source}, {} bytes\n    {}{more}\n", text.len(), start.replace('\n', "\n    "))
}
