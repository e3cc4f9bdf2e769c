//! Words of a text and stems of words: the same when a text is indexed and when it is asked for.

use rust_stemmers::{Algorithm, Stemmer};
use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

/// Words of one text that count.
const WORDS_MAX: usize = 10_000;
/// Longest word, in characters; the rest of a longer one does not count.
const WORD_CHARS_MAX: usize = 64;

/// A language whose words are known by their stems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they name themselves")]
pub enum Language {
    Danish,
    Dutch,
    English,
    Finnish,
    French,
    German,
    Hungarian,
    Italian,
    Norwegian,
    Portuguese,
    Romanian,
    Russian,
    Spanish,
    Swedish,
}

impl Language {
    fn algorithm(self) -> Algorithm {
        match self {
            Self::Danish => Algorithm::Danish,
            Self::Dutch => Algorithm::Dutch,
            Self::English => Algorithm::English,
            Self::Finnish => Algorithm::Finnish,
            Self::French => Algorithm::French,
            Self::German => Algorithm::German,
            Self::Hungarian => Algorithm::Hungarian,
            Self::Italian => Algorithm::Italian,
            Self::Norwegian => Algorithm::Norwegian,
            Self::Portuguese => Algorithm::Portuguese,
            Self::Romanian => Algorithm::Romanian,
            Self::Russian => Algorithm::Russian,
            Self::Spanish => Algorithm::Spanish,
            Self::Swedish => Algorithm::Swedish,
        }
    }
}

/// The languages that are written here. All of them may stand in one room, so a word has a stem in each.
pub(crate) struct Languages(Vec<(Language, Stemmer)>);

impl std::fmt::Debug for Languages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Languages({})", self.0.len())
    }
}

impl Languages {
    pub(crate) fn new(languages: &[Language]) -> Self {
        Self(languages.iter().map(|language| (*language, Stemmer::create(language.algorithm()))).collect())
    }

    /// The stems of a word, without repetition; the word itself where there is none.
    pub(crate) fn stems(&self, word: &str) -> Vec<String> {
        let mut stems: Vec<String> = Vec::with_capacity(2);
        let is_inflected = word.chars().all(char::is_alphabetic) && !word.chars().any(is_ideograph);
        if is_inflected {
            for (language, stemmer) in &self.0 {
                let stem = match language {
                    Language::Swedish => swedish_stem(stemmer, word),
                    _ => stemmer.stem(word).into_owned(),
                };
                if !stem.is_empty() && !stems.contains(&stem) {
                    stems.push(stem);
                }
            }
        }
        if stems.is_empty() {
            stems.push(word.to_owned());
        }
        stems
    }
}

/// Swedish words whose `et` is not the article.
const NO_ARTICLE: [&str; 12] = [
    "internet", "intranet", "planet", "paket", "raket", "komet", "alfabet", "budget", "market", "target", "secret",
    "magnet",
];

/// The stemmer takes one ending at a time, and Swedish puts several behind each other: `möte-n-a`.
fn swedish_stem(stemmer: &Stemmer, word: &str) -> String {
    let mut stem = word.to_owned();
    for _ in 0..3 {
        let shorter = without_article(&stemmer.stem(&stem)).to_owned();
        if shorter == stem {
            break;
        }
        stem = shorter;
    }
    stem
}

/// A Swedish stem without the article `et`, which the stemmer leaves: `mötet` is `möt`, as `möten` is.
fn without_article(stem: &str) -> &str {
    let base = stem.strip_suffix("et").filter(|base| base.chars().count() >= 3 && !base.ends_with(is_swedish_vowel));
    base.filter(|_| !NO_ARTICLE.iter().any(|word| stem.ends_with(word))).unwrap_or(stem)
}

fn is_swedish_vowel(c: char) -> bool {
    matches!(c, 'a' | 'e' | 'i' | 'o' | 'u' | 'y' | 'å' | 'ä' | 'ö')
}

/// The words of a text in order, in lower case. Scripts without spaces give pairs of characters.
pub(crate) fn words(text: &str) -> Vec<String> {
    let mut words = Words::default();
    for c in text.nfkc() {
        if words.done.len() >= WORDS_MAX {
            break;
        }
        if is_ideograph(c) {
            words.end_word();
            words.ideograph(c);
        } else if c.is_alphanumeric() || (is_combining_mark(c) && !words.word.is_empty()) {
            words.end_run();
            words.letter(c);
        } else {
            words.end_word();
            words.end_run();
        }
    }
    words.end_word();
    words.end_run();
    words.done
}

#[derive(Default)]
struct Words {
    done: Vec<String>,
    word: String,
    chars: usize,
    /// The last character of a run without spaces, and whether it stands in a pair already.
    run: Option<(char, bool)>,
}

impl Words {
    fn letter(&mut self, c: char) {
        self.chars += 1;
        if self.chars <= WORD_CHARS_MAX {
            self.word.extend(c.to_lowercase());
        }
    }

    fn ideograph(&mut self, c: char) {
        if let Some((before, _)) = self.run {
            self.done.push([before, c].iter().collect());
        }
        self.run = Some((c, self.run.is_some()));
    }

    fn end_word(&mut self) {
        self.chars = 0;
        if !self.word.is_empty() {
            self.done.push(std::mem::take(&mut self.word));
        }
    }

    fn end_run(&mut self) {
        if let Some((alone, false)) = self.run.take() {
            self.done.push(alone.to_string());
        }
    }
}

/// Whether words of the character's script are written without spaces.
fn is_ideograph(c: char) -> bool {
    matches!(c, '\u{0E00}'..='\u{0EFF}' | '\u{3040}'..='\u{30FF}' | '\u{3400}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}'
        | '\u{20000}'..='\u{3FFFF}')
        && c.is_alphanumeric()
}

/// The word without accents: `ö` is `o`, `é` is `e`.
pub(crate) fn fold(word: &str) -> String {
    if word.is_ascii() {
        return word.to_owned();
    }
    let mut folded = String::with_capacity(word.len());
    for c in word.nfd().filter(|c| !is_combining_mark(*c)) {
        match c {
            'ß' => folded.push_str("ss"),
            'æ' => folded.push_str("ae"),
            'œ' => folded.push_str("oe"),
            'ø' => folded.push('o'),
            'đ' | 'ð' => folded.push('d'),
            'þ' => folded.push_str("th"),
            'ł' => folded.push('l'),
            'ı' => folded.push('i'),
            other => folded.push(other),
        }
    }
    folded
}

/// The word from its end: whoever asks for the last part of a compound asks for the beginning of this.
pub(crate) fn reversed(word: &str) -> String {
    word.chars().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_what_stands_between_spaces_and_signs() {
        assert_eq!(words("Hej, Världen! e-post: 4 st."), ["hej", "världen", "e", "post", "4", "st"]);
        assert_eq!(words("A\u{30a}ngstrom ﬁn"), ["ångstrom", "fin"]);
        assert_eq!(words("日本語 word 本"), ["日本", "本語", "word", "本"]);
        assert_eq!(words(" \u{0} "), Vec::<String>::new());
    }

    #[test]
    fn forms_of_a_word_share_a_stem() {
        let languages = Languages::new(&[Language::Swedish, Language::English]);
        let share = |one: &str, other: &str| {
            let (one, other) = (languages.stems(one), languages.stems(other));
            one.iter().any(|stem| other.contains(stem))
        };
        for (one, other) in [
            ("möte", "mötena"),
            ("möten", "mötets"),
            ("beslutet", "besluten"),
            ("paket", "paketet"),
            ("kommun", "kommunerna"),
            ("house", "houses"),
            ("running", "runs"),
        ] {
            assert!(share(one, other), "{one} {other}");
        }
        for (one, other) in [("möte", "mot"), ("planet", "plan"), ("internet", "intern"), ("sheet", "she")] {
            assert!(!share(one, other), "{one} {other}");
        }
        assert_eq!(languages.stems("42"), ["42"]);
    }

    #[test]
    fn accents_can_be_left_out() {
        assert_eq!(fold("räksmörgås"), "raksmorgas");
        assert_eq!(fold("straße"), "strasse");
        assert_eq!(fold("café"), "cafe");
    }
}
