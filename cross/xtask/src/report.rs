//! What a check found.

/// The findings of one check.
#[derive(Default)]
pub(crate) struct Report {
    /// Each breaks a rule: the check fails.
    pub(crate) errors: Vec<String>,
    /// Beyond an aim, not beyond a stop.
    pub(crate) warnings: Vec<String>,
    /// Facts worth a line.
    pub(crate) notes: Vec<String>,
    /// How many things were looked at; a check that saw nothing proves nothing.
    pub(crate) examined: usize,
}

impl Report {
    /// Adds the findings of another part.
    pub(crate) fn merge(&mut self, other: Self) {
        self.errors.extend(other.errors);
        self.warnings.extend(other.warnings);
        self.notes.extend(other.notes);
        self.examined += other.examined;
    }
}
