//! SPDX licence expressions: whether the licences that we accept satisfy one.

/// Whether `expression` can be satisfied with the `accepted` licences alone. `AND` binds more
/// tightly than `OR` (SPDX 2.3, annex D); the old `/` means `OR`. What cannot be read is refused.
pub fn is_accepted(expression: &str, accepted: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut reader = Reader { words: &words, accepted };
    reader.any() == Some(true) && reader.words.is_empty()
}

struct Reader<'a> {
    words: &'a [&'a str],
    accepted: &'a [String],
}

impl Reader<'_> {
    fn any(&mut self) -> Option<bool> {
        let mut accepted = self.all()?;
        while self.eat("OR") {
            accepted |= self.all()?;
        }
        Some(accepted)
    }

    fn all(&mut self) -> Option<bool> {
        let mut accepted = self.one()?;
        while self.eat("AND") {
            accepted &= self.one()?;
        }
        Some(accepted)
    }

    fn one(&mut self) -> Option<bool> {
        if self.eat("(") {
            let inner = self.any()?;
            return self.eat(")").then_some(inner);
        }
        let mut licence = self.next()?.to_owned();
        if self.eat("WITH") {
            licence = format!("{licence} WITH {}", self.next()?);
        }
        Some(self.accepted.contains(&licence))
    }

    fn eat(&mut self, word: &str) -> bool {
        let found = self.words.first() == Some(&word);
        if found {
            self.next();
        }
        found
    }

    fn next(&mut self) -> Option<&str> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(expression: &str, accepted: bool) {
        let licences = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
        assert_eq!(is_accepted(expression, &licences), accepted, "{expression}");
    }

    #[test]
    fn one_alternative_is_enough() {
        check("GPL-3.0 OR MIT", true);
        check("GPL-3.0/MIT", true);
        check("GPL-3.0 OR BSD-2-Clause", false);
    }

    #[test]
    fn every_part_is_needed() {
        check("MIT AND ISC", true);
        check("MIT AND GPL-3.0", false);
        check("MIT AND (GPL-3.0 OR ISC)", true);
    }

    #[test]
    fn and_binds_more_tightly_than_or() {
        check("MIT OR ISC AND GPL-3.0", true);
        check("GPL-3.0 AND MIT OR GPL-3.0", false);
    }

    #[test]
    fn an_exception_is_part_of_its_licence() {
        check("Apache-2.0 WITH LLVM-exception", true);
        check("Apache-2.0", false);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for expression in ["", "MIT AND", "(MIT", "MIT)", "MIT ISC", "OR MIT"] {
            check(expression, false);
        }
    }
}
