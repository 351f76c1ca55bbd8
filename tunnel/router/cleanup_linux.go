package router

import (
	"errors"
	"io/fs"
	"os"
	"slices"
)

// CleanUp takes back what a process that was killed has left on the host by the journal at that path, and returns what it did in words. It may
// be called at any time that no Router with that journal is open, and more than once. The kill switch stays.
func CleanUp(path string) ([]string, error) {
	j, err := readJournal(path)
	if err != nil {
		// What it said is lost, and would be in the way for ever.
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		notes, undone := (&journal{Interface: usualInterface, Accepted: true}).takeBack()
		return notes, errors.Join(err, undone)
	}
	if j == nil {
		return nil, nil
	}
	return j.takeBack()
}

// takeBack undoes all that is in the journal, and removes it if that worked.
func (j *journal) takeBack() (notes []string, err error) {
	var errs []error
	for _, family := range families {
		errs = append(errs, removeRules(family))
	}
	errs = append(errs, removeTable(tableNameFor(j.Interface)))
	if j.Accepted {
		errs = append(errs, removeAccepts(j.Interface))
	}
	for _, s := range slices.Backward(j.Sysctls) {
		note, err := s.restore()
		if err != nil {
			errs = append(errs, err)
		} else if note != "" {
			notes = append(notes, note)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return notes, err
	}
	j.Sysctls, j.Accepted = nil, false
	return notes, j.remove()
}
