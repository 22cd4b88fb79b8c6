from pilotfish.agent import main

main()
