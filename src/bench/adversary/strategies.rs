//! The strategies, one file each.

mod boilerplate;
mod cached;
mod copycat;
mod echo;
mod gibberish;
mod greedy;
mod hang;
mod homoglyphs;
mod injection;
mod keywords;
mod length_bomb;
mod noisy_phrase;
mod not_a_number;
mod padding;
mod repetition;
mod rider;
mod ring;
mod selective;
mod squeeze;
mod stock_phrase;
mod sybils;
mod synonyms;

use super::strategy::Strategy;

/// All of them, in the order of the table.
pub const ALL: [&dyn Strategy; 22] = [
    &stock_phrase::StockPhrase,
    &noisy_phrase::NoisyPhrase,
    &echo::Echo,
    &synonyms::Synonyms,
    &greedy::Greedy,
    &keywords::Keywords,
    &repetition::Repetition,
    &boilerplate::Boilerplate,
    &padding::Padding,
    &gibberish::Gibberish,
    &copycat::Copycat,
    &homoglyphs::Homoglyphs,
    &ring::Ring,
    &cached::Cached,
    &squeeze::Squeeze,
    &not_a_number::NotANumber,
    &hang::Hang,
    &length_bomb::LengthBomb,
    &injection::Injection,
    &selective::Selective,
    &sybils::Sybils,
    &rider::Rider,
];
