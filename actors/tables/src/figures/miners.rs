//! Miners: how varied, how good, how quick, how alike.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Agg, By, Figure, Form, Options, Series, completions::Texts, mean, ranked};
use crate::StepRow;

/// How often a miner is asked before its latency is shown.
const FEWEST_TIMES: usize = 3;

#[derive(Debug, Default)]
pub(super) struct Miners {
    followups: BTreeMap<i64, Variety>,
    answers: BTreeMap<i64, Variety>,
    board: BTreeMap<i64, Earned>,
    /// How often each gave which text, in the order given first.
    given: BTreeMap<i64, Vec<(u32, u64)>>,
    given_place: HashMap<(i64, u32), usize>,
    /// Successes and calls, and which miner was called first, second, …
    calls: BTreeMap<i64, (u64, u64, usize)>,
    times: BTreeMap<i64, Vec<f64>>,
}

#[derive(Debug, Default)]
struct Variety {
    texts: BTreeSet<u32>,
    completions: u64,
    rewards: f64,
    rewarded: u64,
}

#[derive(Debug)]
struct Earned {
    sum: f64,
    count: u64,
    size: u64,
    most: f64,
}

impl Default for Earned {
    fn default() -> Self {
        Self { sum: 0.0, count: 0, size: 0, most: f64::NEG_INFINITY }
    }
}

// === impl Miners ===

impl Miners {
    pub(super) fn add(&mut self, row: &StepRow, ids: &[u32], options: &Options) {
        let empty = |place: usize| row.completions[place].is_empty();
        for (place, (&uid, &id)) in row.uids.iter().zip(ids).enumerate() {
            let reward = row.rewards.get(place).copied().flatten();
            let varieties = match row.kind() {
                "followup" => Some(&mut self.followups),
                "answer" => Some(&mut self.answers),
                _ => None,
            };
            if let Some(varieties) = varieties.filter(|_| !(options.drop_failed && empty(place))) {
                let variety = varieties.entry(uid).or_default();
                variety.texts.insert(id);
                variety.completions += 1;
                variety.rewards += reward.unwrap_or_default();
                variety.rewarded += u64::from(reward.is_some());
            }
            if options.is_about(row, "answer") {
                let key = if options.by == By::Uid { uid } else { i64::from(id) };
                let earned = self.board.entry(key).or_default();
                earned.size += 1;
                if let Some(reward) = reward {
                    earned.sum += reward;
                    earned.count += 1;
                    earned.most = earned.most.max(reward);
                }
                let others = self.calls.len();
                let calls = self.calls.entry(uid).or_insert((0, 0, others));
                calls.0 += u64::from(reward.is_some_and(|reward| reward != 0.0));
                calls.1 += u64::from(reward.is_some());
            }
            if options.is_about(row, "followup") {
                let given = self.given.entry(uid).or_default();
                let place = *self.given_place.entry((uid, id)).or_insert_with(|| {
                    given.push((id, 0));
                    given.len() - 1
                });
                given[place].1 += 1;
            }
            if let Some(seconds) = row.completion_times.get(place).copied().flatten().filter(|_| !empty(place)) {
                self.times.entry(uid).or_default().push(seconds);
            }
        }
    }

    /// `plot_uid_diversty`.
    pub(super) fn diversity(&self, options: &Options) -> Figure {
        let mut series = Series { name: "miners".to_owned(), ..Series::default() };
        for (uid, followups) in self.followups.iter().filter(|(uid, _)| options.shows(**uid)) {
            let Some(answers) = self.answers.get(uid) else { continue };
            let share = |variety: &Variety| variety.texts.len() as f64 / variety.completions as f64;
            let means = [followups, answers].map(|variety| mean(variety.rewards, variety.rewarded));
            let known: Vec<f64> = means.into_iter().flatten().collect();
            series.x.push(share(followups));
            series.y.push(Some(share(answers)));
            series.sizes.push(followups.completions as f64);
            let reward = mean(known.iter().sum(), known.len() as u64).unwrap_or_default();
            series.labels.push(format!("uid {uid}, mean reward {reward:.3}"));
        }
        Figure {
            id: "uid_diversity",
            title: "Diversity of completions by miner".to_owned(),
            note: "The share of a miner's completions that are different texts. Low on both sides: it repeats itself. Larger \
                   points were asked more often.",
            form: Form::Scatter,
            x_label: "Different followups".to_owned(),
            y_label: "Different answers".to_owned(),
            series: some(series),
        }
    }

    /// `plot_leaderboard`.
    pub(super) fn leaderboard(&self, texts: &Texts, options: &Options) -> Figure {
        let value = |earned: &Earned| match options.agg {
            Agg::Mean => mean(earned.sum, earned.count),
            Agg::Max => (earned.count > 0).then_some(earned.most),
            Agg::Size => Some(earned.size as f64),
        };
        let by_uid = options.by == By::Uid;
        let rows = self.board.iter().filter(|(key, _)| !by_uid || options.shows(**key));
        let ranked = ranked(rows.filter_map(|(key, earned)| Some((*key, value(earned)?))));
        let mut series = Series { name: format!("{:?}", options.agg).to_lowercase(), ..Series::default() };
        for (key, value) in ranked.into_iter().take(options.top.unwrap_or(10)) {
            series.y.push(Some(value));
            let text = || texts.shown(u32::try_from(key).unwrap_or(u32::MAX));
            series.labels.push(if by_uid { key.to_string() } else { text() });
        }
        Figure {
            id: "leaderboard",
            title: format!("Leaderboard, by {} reward", series.name),
            note: "Rewards of one kind of step; --step, --by and --agg choose others.",
            form: Form::Bars,
            x_label: "Reward".to_owned(),
            y_label: if by_uid { "uid" } else { "completion" }.to_owned(),
            series: some(series),
        }
    }

    /// `plot_dendrite_rates`.
    pub(super) fn calls(&self, options: &Options) -> Figure {
        let shown = self.calls.iter().filter(|(uid, _)| options.shows(**uid));
        let mut called: Vec<_> = shown.map(|(uid, (_, total, place))| (*place, (*uid, *total))).collect();
        called.sort_unstable();
        let mut top = ranked(called.into_iter().map(|(_, miner)| miner));
        top.truncate(options.top.unwrap_or(20));
        top.sort_unstable();
        let series = |name: &str, of: fn(&(u64, u64, usize)) -> u64| Series {
            name: name.to_owned(),
            y: top.iter().map(|(uid, _)| self.calls.get(uid).map(|calls| of(calls) as f64)).collect(),
            labels: top.iter().map(|(uid, _)| uid.to_string()).collect(),
            ..Series::default()
        };
        let both = vec![series("Success", |calls| calls.0), series("Total", |calls| calls.1)];
        Figure {
            id: "dendrite_rates",
            title: "Calls by miner".to_owned(),
            note: "A call succeeded when its completion earned something.",
            form: Form::Bars,
            x_label: "Calls".to_owned(),
            y_label: "uid".to_owned(),
            series: if top.is_empty() { Vec::new() } else { both },
        }
    }

    /// `plot_network_embedding`: who shares one of its most frequent texts with whom. The reference's groups are cliques of
    /// miners that share texts in pairs, and of the cliques that a miner is in an arbitrary one counts; here a group shares
    /// one text, and the largest counts. For one text a miner, the default, both are the same. Its places are random, these
    /// are on circles, a circle for each group.
    pub(super) fn network(&self, texts: &Texts, options: &Options) -> Figure {
        let mut sharing: BTreeMap<u32, Vec<i64>> = BTreeMap::new();
        let mut alone: BTreeMap<i64, u32> = BTreeMap::new();
        for (uid, given) in self.given.iter().filter(|(uid, _)| options.shows(**uid)) {
            let most = ranked(given.iter().copied());
            alone.extend(most.first().map(|(id, _)| (*uid, *id)));
            most.iter().take(options.network_texts).for_each(|(id, _)| sharing.entry(*id).or_default().push(*uid));
        }
        let sizes = sharing.iter().map(|(id, uids)| (*id, uids.len()));
        let mut groups: Vec<(u32, Vec<i64>)> = Vec::new();
        for (id, _) in ranked(sizes).into_iter().take_while(|(_, size)| *size > 1) {
            let uids: Vec<i64> = sharing[&id].iter().copied().filter(|uid| alone.contains_key(uid)).collect();
            if uids.len() > 1 {
                alone.retain(|uid, _| !uids.contains(uid));
                groups.push((id, uids));
            }
        }
        let others = alone.into_iter().map(|(uid, id)| (id, uid));
        let mut named: Vec<(String, Vec<(u32, i64)>)> = groups
            .into_iter()
            .enumerate()
            .map(|(at, (id, uids))| (format!("Group {}", at + 1), uids.into_iter().map(|uid| (id, uid)).collect()))
            .collect();
        named.push(("Other".to_owned(), others.collect()));
        let circles = named.len() as f64;
        let series =
            named.into_iter().enumerate().filter(|(_, (_, members))| !members.is_empty()).map(|(at, group)| {
                let (name, members) = group;
                let turn = |at: usize, of: f64| (std::f64::consts::TAU * at as f64 / of).sin_cos();
                let (middle_y, middle_x) = turn(at, circles);
                let mut series = Series { name, ..Series::default() };
                for (place, (id, uid)) in members.iter().enumerate() {
                    let (y, x) = turn(place, members.len() as f64);
                    series.x.push(middle_x + 0.25 * x);
                    series.y.push(Some(middle_y + 0.25 * y));
                    series.labels.push(format!("uid {uid}: {}", texts.shown(*id)));
                }
                series
            });
        Figure {
            id: "network_embedding",
            title: "Miners whose most frequent text is the same".to_owned(),
            note: "Members of a group share a text that each gives most often (--network-texts: one of its so many most \
                   frequent): perhaps one owner, perhaps one model.",
            form: Form::Scatter,
            x_label: String::new(),
            y_label: String::new(),
            series: series.collect(),
        }
    }

    /// How long each takes to answer.
    pub(super) fn latency(&self, options: &Options) -> Figure {
        let quantile = |times: &[f64], share: f64| {
            let mut sorted = times.to_vec();
            sorted.sort_by(f64::total_cmp);
            sorted.get(((sorted.len() - 1) as f64 * share).round() as usize).copied()
        };
        let often = self.times.iter().filter(|(uid, times)| times.len() >= FEWEST_TIMES && options.shows(**uid));
        let mut rows: Vec<_> = ranked(often.map(|(uid, times)| ((*uid, times), quantile(times, 0.5))));
        rows.reverse();
        rows.truncate(options.top.unwrap_or(40));
        let series = |name: &str, share: f64| Series {
            name: name.to_owned(),
            y: rows.iter().map(|((_, times), _)| quantile(times, share)).collect(),
            labels: rows.iter().map(|((uid, _), _)| uid.to_string()).collect(),
            ..Series::default()
        };
        let both = vec![series("median", 0.5), series("nine of ten", 0.9)];
        Figure {
            id: "latency",
            title: "Seconds to a completion, by miner".to_owned(),
            note: "Of calls that were answered with a text, quickest first.",
            form: Form::Bars,
            x_label: "Seconds".to_owned(),
            y_label: "uid".to_owned(),
            series: if rows.is_empty() { Vec::new() } else { both },
        }
    }
}

/// A series that has points.
fn some(series: Series) -> Vec<Series> {
    if series.y.is_empty() { Vec::new() } else { vec![series] }
}
