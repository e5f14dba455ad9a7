//! Text to token ids, and back.
//!
//! A text is tokenised whole, since merges cross the boundaries of its parts, and the ids are those the reference has
//! wherever a miner spells no special token. Where one does, the reference reads it as one: a `</s>` of a miner ends
//! what it likes. Here special tokens are read in our own parts of a text and nowhere else.

mod load;

pub(crate) use load::Rules;

use std::ops::Range;

use openvalidators_messages::inference::{Composed, Input, Overflow, Part};
use tokenizers::{
    AddedVocabulary, Encoding, Model, NormalizedString, Normalizer, OffsetReferential, OffsetType, PostProcessor,
    PreTokenizedString, PreTokenizer, Token, Tokenizer, TruncationDirection, TruncationParams, normalizer,
    utils::truncation::truncate_encodings,
};

/// A text of more bytes than this for each token that is kept is cut before it is tokenised. Tokens of prose have four,
/// the longest of common vocabularies (runs of spaces or dashes) 64 to 128.
const MOST_BYTES_A_TOKEN: usize = 128;

/// An input of more windows than this is refused: what nobody looks at could say anything.
const MOST_WINDOWS: usize = 64;

/// A model's tokenizer. Shared by threads: encoding does not change it.
#[derive(Debug)]
pub(crate) struct TextTokenizer {
    /// As the model's authors made it: reads special tokens wherever they are spelled.
    inner: Tokenizer,
    /// The tokens that `inner` finds in a text before anything else, taking special ones for letters.
    letters: AddedVocabulary,
    /// Reads special tokens in the texts of others too, as the reference does.
    interpret: bool,
    /// Whether the network is handed a type for each token; where nobody says, it is where two texts make types differ.
    typed: Option<bool>,
    max_tokens: usize,
    ceiling_tokens: usize,
}

/// A text, or a pair of texts, in tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Tokens {
    pub(crate) ids: Vec<u32>,
    /// One for each id: 1 in the second text of a pair, for models that tell them apart. Empty where the model's authors hand
    /// the network none. All 0 is not the same: a GPT-J that is handed types adds a word for each.
    pub(crate) types: Vec<u32>,
}

// === impl TextTokenizer ===

impl TextTokenizer {
    /// The ids of `text` with the tokens the model puts around a text, cut on the right at `limit`.
    pub(crate) fn encode(&self, text: &Composed, limit: usize) -> Result<Vec<u32>, String> {
        let windows = self.encode_all(text, None, limit, limit)?;
        Ok(windows.into_iter().next().unwrap_or_default().ids)
    }

    /// An input in tokens: one window, unless `overflow` says that it runs on in further ones. None is empty. Where a pair
    /// is too long, the longer text is cut first.
    pub(crate) fn windows(&self, input: &Input, overflow: Overflow) -> Result<Vec<Tokens>, String> {
        let (first, second) = match input {
            Input::Text(text) => (text, None),
            // transformers takes an empty second text for none, and puts no separator behind it.
            Input::Pair(first, second) => (first, (!second.is_empty()).then_some(second)),
        };
        let (cut, whole) = (self.max_tokens, self.ceiling_tokens);
        let too_many = || format!("it runs on for more than {MOST_WINDOWS} windows of {cut} tokens");
        let mut windows = match overflow {
            Overflow::Cut => self.encode_all(first, second, cut, cut)?,
            Overflow::Whole => self.encode_all(first, second, whole, whole)?,
            Overflow::Windows => self.encode_all(first, second, cut.saturating_mul(MOST_WINDOWS + 1), cut)?,
            Overflow::BareWindows => {
                let most = cut.saturating_mul(MOST_WINDOWS + 1);
                let whole = self.encode_all(first, second, most, most)?;
                whole.iter().flat_map(|tokens| tokens.chunks(cut)).collect()
            }
        };
        if windows.len() > MOST_WINDOWS {
            return Err(too_many());
        }
        windows.retain(|tokens| !tokens.ids.is_empty());
        if windows.is_empty() {
            return Err("it has no token to judge it by".into());
        }
        Ok(windows)
    }

    /// Where the model's authors cut texts; never beyond [`Self::ceiling_tokens`].
    pub(crate) fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Where the network ends, or the operator ends it.
    pub(crate) fn ceiling_tokens(&self) -> usize {
        self.ceiling_tokens
    }

    /// Whether special tokens are read in the texts of others too.
    pub(crate) fn interprets(&self) -> bool {
        self.interpret
    }

    /// The text that `ids` stand for; special tokens stand for nothing.
    pub(crate) fn decode(&self, ids: &[u32]) -> Result<String, String> {
        self.inner.decode(ids, true).map_err(|error| error.to_string())
    }

    /// The first `most` tokens of a text or a pair, in windows of at most `window` tokens, special ones included.
    fn encode_all(
        &self,
        first: &Composed,
        second: Option<&Composed>,
        most: usize,
        window: usize,
    ) -> Result<Vec<Tokens>, String> {
        let said = |error: tokenizers::Error| error.to_string();
        let around = self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(second.is_some()));
        let encoding = self.sequence(first, 0, most).map_err(said)?;
        let pair = second.map(|second| self.sequence(second, 1, most)).transpose().map_err(said)?;
        let params = TruncationParams { max_length: window.saturating_sub(around), ..TruncationParams::default() };
        let (mut encoding, mut pair) = truncate_encodings(encoding, pair, &params).map_err(said)?;
        if window == most {
            // What was cut off would be processed and thrown away.
            encoding.take_overflowing();
            pair.as_mut().map(Encoding::take_overflowing);
        }
        let encoding = self.inner.post_process(encoding, pair, true).map_err(said)?;
        Ok(std::iter::once(&encoding).chain(encoding.get_overflowing()).map(|window| self.tokens_of(window)).collect())
    }

    fn tokens_of(&self, encoding: &Encoding) -> Tokens {
        let types = encoding.get_type_ids();
        let typed = self.typed.unwrap_or_else(|| types.iter().any(|&kind| kind != 0));
        Tokens { ids: encoding.get_ids().to_vec(), types: if typed { types.to_vec() } else { Vec::new() } }
    }

    /// The tokens of one text, of which at most the first `limit` matter.
    fn sequence(&self, text: &Composed, kind: u32, limit: usize) -> tokenizers::Result<Encoding> {
        let mut pieces = self.pieces(text, limit.saturating_mul(MOST_BYTES_A_TOKEN))?;
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        pieces.tokenize_with_limit(|text| self.tokens(text.get()), limit, TruncationDirection::Right)?;
        pieces.into_encoding(None, kind, OffsetType::None)
    }

    /// The tokens of text that holds no special one of ours. The vocabulary of a Unigram model has its special tokens among
    /// the others, and would find them in letters: they are taken apart until it does not.
    fn tokens(&self, text: &str) -> tokenizers::Result<Vec<Token>> {
        let tokens = self.inner.get_model().tokenize(text)?;
        let special = self.letters.get_added_tokens_decoder();
        // An unknown letter has the id of a special token too, but is not spelled like it.
        let spelled = |token: &Token| {
            let surface = text.get(token.offsets.0..token.offsets.1).unwrap_or_default();
            special.get(&token.id).is_some_and(|known| known.special && known.content == surface)
        };
        if self.interpret || !tokens.iter().any(spelled) {
            return Ok(tokens);
        }
        let mut letters = Vec::with_capacity(tokens.len() + 1);
        for token in tokens {
            let surface = &text[token.offsets.0..token.offsets.1];
            let rest = surface.char_indices().nth(1).map_or(surface.len(), |(at, _)| at);
            if !spelled(&token) || rest == surface.len() {
                letters.push(token);
                continue;
            }
            letters.extend(self.tokens(&surface[..rest])?);
            letters.extend(self.tokens(&surface[rest..])?);
        }
        Ok(letters)
    }

    /// The text, normalised and cut into tokens that are found by their spelling and what is between them.
    fn pieces(&self, text: &Composed, most_bytes: usize) -> tokenizers::Result<PreTokenizedString> {
        let mut whole = String::new();
        let mut ours = Vec::new();
        for part in &text.0 {
            let (spelled, is_ours) = match part {
                Part::Ours(spelled) => (spelled, true),
                Part::Theirs(spelled) => (spelled, self.interpret),
            };
            let start = whole.len();
            let room = spelled.floor_char_boundary(most_bytes.saturating_sub(start));
            whole.push_str(&spelled[..room]);
            // Of two parts of ours that meet, a token may have a piece of each.
            match ours.last_mut() {
                Some(Range { end, .. }) if is_ours && *end == start => *end = whole.len(),
                _ if is_ours => ours.push(start..whole.len()),
                _ => {}
            }
        }
        let normalizer = self.inner.get_normalizer();
        if ours.contains(&(0..whole.len())) {
            return Ok(self.inner.get_added_vocabulary().extract_and_normalize(normalizer, &whole));
        }
        let special: Vec<_> = ours.into_iter().flat_map(|part| self.special_in(&whole, part)).collect();
        if special.is_empty() {
            return Ok(self.letters.extract_and_normalize(normalizer, &whole));
        }
        let mut pieces = PreTokenizedString::from(whole);
        pieces.split(|_, text| sliced(&text, &special, normalizer::Range::Original))?;
        pieces.split(|_, mut text| {
            if let Some(normalizer) = normalizer {
                normalizer.normalize(&mut text)?;
            }
            let plain = found(&self.letters, text.get());
            sliced(&text, &plain, normalizer::Range::Normalized)
        })?;
        Ok(pieces)
    }

    /// The special tokens spelled in `part` of `whole`.
    pub(crate) fn special_in(&self, whole: &str, part: Range<usize>) -> Vec<(Range<usize>, u32)> {
        let vocabulary = self.inner.get_added_vocabulary();
        let is_special = |id: &u32| {
            let token = vocabulary.get_added_tokens_decoder().get(id);
            token.is_some_and(|token| self.letters.is_special_token(&token.content))
        };
        let shifted = |(range, id): (Range<usize>, u32)| (range.start + part.start..range.end + part.start, id);
        found(vocabulary, &whole[part.clone()]).into_iter().filter(|(_, id)| is_special(id)).map(shifted).collect()
    }
}

// === impl Tokens ===

impl Tokens {
    /// Ids and types side by side.
    pub(crate) fn typed(&self) -> (&[u32], &[u32]) {
        (&self.ids, &self.types)
    }

    /// Parts of `window` tokens, the last of fewer.
    fn chunks(&self, window: usize) -> impl Iterator<Item = Self> {
        let part = move |at: usize, of: &[u32]| of.chunks(window).nth(at).unwrap_or_default().to_vec();
        (0..self.ids.len().div_ceil(window))
            .map(move |at| Self { ids: part(at, &self.ids), types: part(at, &self.types) })
    }
}

/// The tokens of `vocabulary` that are spelled in `text`, and where.
fn found(vocabulary: &AddedVocabulary, text: &str) -> Vec<(Range<usize>, u32)> {
    let pieces = vocabulary.extract_and_normalize::<tokenizers::NormalizerWrapper>(None, text);
    pieces
        .get_splits(OffsetReferential::Original, OffsetType::Byte)
        .into_iter()
        .filter_map(|(_, (start, end), tokens)| Some((start..end, tokens.as_ref()?.first()?.id)))
        .collect()
}

/// `text` cut at `tokens`, which are in order.
fn sliced(
    text: &NormalizedString,
    tokens: &[(Range<usize>, u32)],
    range: impl Fn(Range<usize>) -> normalizer::Range<Range<usize>>,
) -> tokenizers::Result<Vec<(NormalizedString, Option<Vec<Token>>)>> {
    let slice = |at: Range<usize>| text.slice(range(at)).ok_or("a special token is not where it was found");
    let whole = match range(0..0) {
        normalizer::Range::Original(_) => text.len_original(),
        normalizer::Range::Normalized(_) => text.len(),
    };
    let (mut slices, mut start) = (Vec::new(), 0);
    for (at, id) in tokens {
        if start < at.start {
            slices.push((slice(start..at.start)?, None));
        }
        let spelled = slice(at.clone())?;
        let token = Token::new(*id, spelled.get().to_owned(), (0, spelled.len()));
        slices.push((spelled, Some(vec![token])));
        start = at.end;
    }
    if start < whole {
        slices.push((slice(start..whole)?, None));
    }
    Ok(slices)
}

#[cfg(test)]
mod tests;
