//! The whole program from outside: the real binary, its files, its sockets.

#![allow(clippy::disallowed_methods, reason = "tests of the whole program run in real time")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

mod alerts;
mod bad_input;
mod bad_miners;
mod bench;
mod dashboards;
mod datasets;
mod decides;
mod deploy;
mod device;
mod disk;
mod doctor;
mod drops;
mod flags;
mod fuzz;
mod hub;
mod journey;
mod judges;
mod kills;
mod ledger;
mod live;
mod manual;
mod models;
mod network;
mod panics;
mod program;
mod prompts;
mod real_miners;
mod release;
mod resume;
mod routing;
mod run;
mod score;
mod service;
mod swarm;
mod traces;
mod update;
mod upgrade;
mod wallet;
mod wandb;
